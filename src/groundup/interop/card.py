"""The model card of an export (Mitchell et al. 2019), from the files its run left; it measures and guesses nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.core.bits import MEANINGS, OF_HIDDEN, OF_RESTORED, OF_TEXT
from groundup.core.errors import DataError
from groundup.core.report import duration
from groundup.model.options import Transformer
from groundup.shard.manifest import Manifest
from groundup.tokenizer.protocol import Tokenizer

Figures = Mapping[str, Any]
README = "README.md"
UNKNOWN, NOTHING = "not recorded", "Not recorded."
FRONT = "---\nlibrary_name: transformers\npipeline_tag: {}\ntags:\n- groundup\n---"
TAGS = {"encoder": "fill-mask", "encoder_decoder": "text2text-generation"}
"""What the Hub calls kinds of networks; others are for text-generation."""
WRITER = """from transformers import pipeline

writer = pipeline("text-generation", model={})
print(writer("In the beginning")[0]["generated_text"])"""
FILLER = """from transformers import pipeline

filler = pipeline("fill-mask", model={})
print(filler("In the{}")[0]["token_str"])"""
READER = """from transformers import AutoModelForMaskedLM, AutoTokenizer

model, tokenizer = (auto.from_pretrained({}) for auto in (AutoModelForMaskedLM, AutoTokenizer))
print(model(**tokenizer("In the beginning", return_tensors="pt")).logits)"""
ANSWERER = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, tokenizer = (auto.from_pretrained({}) for auto in (AutoModelForSeq2SeqLM, AutoTokenizer))
source = tokenizer("In the beginning", return_tensors="pt")
print(tokenizer.decode(model.generate(**source, max_new_tokens=50)[0]))"""
LIMITS = {
    **dict.fromkeys(("pretrain", "prefix"), "It is a base model: it continues a text and follows no instructions."),
    "masked": "It is a base model: it tells what is hidden in a text, and writes none.",
    **dict.fromkeys(
        ("span", "denoise", "ul2"),
        "It is a base model: it restores what is hidden in a text and follows no instructions.",
    ),
}
UNITS = {**dict.fromkeys(("masked", "span", "ul2"), OF_HIDDEN), "denoise": OF_RESTORED}
"""What held-out figures are in, by what a network was trained for."""
BIAS = ("bbq", "crows_pairs", "realtoxicityprompts", "simple_cooccurrence_bias", "toxigen", "winogender")
"""How the names of lm-eval's tasks on bias and toxicity begin."""
_ROOTED = re.compile(r"[/\\~]|[A-Za-z]:[\\/]|[\w+.-]+://")
_LOOK = re.compile(r"^(\d+),held_out/([^,\n]+),(\d+(?:\.\d+)?(?:e[-+]?\d+)?)$", re.MULTILINE)


def card(
    folder: str,
    architecture: str,
    config: Transformer,
    tokenizer: Tokenizer,
    report: Figures,
    mask: str | None = None,
) -> str:
    """The text of a card: of an export to a folder of this name, as this class there, with what was recorded.

    Args:
        folder: its name.
        architecture: the class there.
        config: the network.
        tokenizer: of its text.
        report: what was recorded.
        mask: the piece that stands for what is hidden, if there is one.
    """
    (vocabulary, context), parameters, ids = config.closed(), config.parameters()["total"], tokenizer.card()
    sizes = f"{parameters:,} parameters, a context of {context:,} tokens and a vocabulary of {vocabulary:,} ids"
    use = _use(config.kind, json.dumps(folder, ensure_ascii=False), mask)
    bias = [result for result in report["results"] if str(result.get("task")).startswith(BIAS)]
    sections = {
        "How to use": f"```python\n{use}\n```",
        "Training data": _data(report),
        "Training": _training(report),
        "Evaluation": f"{_held_out(report)}\n\n{_tasks(report['results'])}",
        "Limits": _limits(report, context),
        "Bias and toxicity": f"{_tasks(bias)}\n\nNobody should deploy this model without measuring both for its use.",
        "Environment": _table(["part", "what"], [*(_at(report, "environment") or {}).items()]) or NOTHING,
        "Licence": "The licence of these weights is for their owner to state.",
    }
    what = f"A `{architecture}` of {sizes}; tokenizer: {_said(ids['kind'])}, digest `{ids['digest']}`."
    front = FRONT.format(TAGS.get(config.kind, "text-generation"))
    parts = [front, f"# {_said(report['name'])}", what, *(f"## {name}\n\n{text}" for name, text in sections.items())]
    return "\n\n".join([*parts, ""]).encode("utf-8", "replace").decode()  # a file's name may hold what is no character


def _use(kind: str, folder: str, mask: str | None) -> str:
    """A program that uses an export."""
    if kind == "encoder":
        return READER.format(folder) if mask is None else FILLER.format(folder, mask)
    return (ANSWERER if kind == "encoder_decoder" else WRITER).format(folder)


def recorded(run: Path, digest: str) -> Figures:
    """What a model folder, with a tokenizer of this digest, tells of its run; a missing or damaged file tells nothing.

    Returns:
        report.json, or what other files have of it, then with `planned`: `steps` and `tokens` are those of the plan,
        `data` is what its folder holds now, and `held_out` is of the weights of the step `seen`, where there is one.
        Further `results`: the tasks of the newest evaluation of the finished weights.
    """
    report: Figures = (_objects(run / "report.json") or [{}])[0]
    if not isinstance(_at(report, "config", "data"), dict):  # none, or another program's
        first, *plan = _objects(run / "segments.jsonl", lines=True) or [{}]
        end, log = _at(plan[-1] if plan else None, "last"), run / "metrics.csv"
        looks = _LOOK.findall(log.read_text(encoding="utf-8", errors="replace") if log.is_file() else "")
        report = {
            "config": _at(first, "config"),
            "segments": [{**segment, "first": _at(segment, "first", "steps")} for segment in plan],
            "steps": _at(end, "steps"),
            "tokens": _at(end, "tokens"),
            "data": _prepared(_at(first, "config", "data", "path"), digest),
            "held_out": {name: float(value) for step, name, value in looks if step == looks[-1][0]},
            "seen": looks[-1][0] if looks else None,
            "planned": True,
        }
    places = [run / "evaluation" / "evaluation.json", *sorted(run.glob("evaluation/step-*/evaluation.json"))]
    found = [(path.stat().st_mtime, figures) for path in places for figures in _objects(path)]
    of_these = [pair for pair in found if pair[1].get("steps") == (_at(report, "steps") or 0)]
    evaluation: Figures = max(of_these, key=lambda pair: pair[0])[1] if of_these else {}
    if report.get("planned") and evaluation.get("held_out"):
        report = {**report, "held_out": evaluation["held_out"], "seen": None}
    name = _at(report, "config", "name") or run.resolve().name
    return {**report, "name": name, "results": _dicts(evaluation.get("results"))}


def trained_for(report: Figures) -> Figures:
    """The objective's options, as far as they are recorded."""
    objective = _at(report, "config", "objective")
    return objective if isinstance(objective, dict) else {}


def _prepared(path: Any, digest: str) -> list[Figures]:
    """What a data folder holds, if it is near and of this tokenizer."""
    try:
        manifest = Manifest.read(str(path)) if path and "://" not in str(path) else None
    except DataError:
        return []
    splits = manifest.splits if manifest and manifest.tokenizer.digest == digest else {}
    held = [(split, name, holding) for split, sources in splits.items() for name, holding in sources.items()]
    return [{"split": at, "source": name, "documents": h.documents, "tokens": h.tokens} for at, name, h in held]


def _data(report: Figures) -> str:
    data, header = _at(report, "config", "data"), ["split", "source", "documents", "tokens"]
    if not data:
        return NOTHING
    table = _table(header, [[row.get(key) for key in header] for row in _dicts(report.get("data"))])
    mixture, when = _at(data, "weights") or "sources by their size", "is now" if report.get("planned") else "was"
    held = f", as it {when}:\n\n{table}" if table else f"; what it held is {UNKNOWN}."
    return f"Data folder {_said(_last(_at(data, 'path')))}{held}\n\nMixture: {_said(mixture)}."


def _training(report: Figures) -> str:
    config, begun = _at(report, "config"), _at(report, "config", "model", "init_from")
    if not config:
        return NOTHING
    seconds, planned = _at(report, "speed", "elapsed_seconds"), ", as planned" if report.get("planned") else ""
    rows: list[Sequence[Any]] = [
        ["begun with", f"the weights of {_last(begun)}" if begun else "random weights"],
        *([part, _at(config, part)] for part in ("objective", "optimizer", "schedule")),
        ["tokens of a batch", _at(config, "data", "batch_tokens")],
        ["tokens of a window", _at(config, "data", "context")],
        *([f"{clock}{planned}", report.get(clock)] for clock in ("steps", "tokens")),
        ["seed", _at(config, "seed")],
        ["precision", _at(report, "precision") or _at(config, "trainer", "precision")],
        ["wall-clock time", duration(seconds) if isinstance(seconds, int | float) else None],
    ]
    changes = [[row.get(key) for key in ("first", "reason", "set")] for row in _dicts(report.get("segments"))]
    further = _table(["from step", "because", "set"], changes) if len(changes) > 1 else ""
    return f"{_table(['part', 'what'], rows)}\n\n{further}".strip()


def _held_out(report: Figures) -> str:
    seen, figures = report.get("seen"), report.get("held_out") or {}
    whose = "the finished weights" if seen is None else f"the weights of step {seen}, not of the finished ones"
    unit = UNITS.get(str(trained_for(report).get("kind")), OF_TEXT)
    table = _table(["held-out text", unit], [*figures.items()])
    what = f"Of text that was held out, by the predictions of {whose}: {MEANINGS[unit]}; lower is better"
    return f"{what}:\n\n{table}" if table else "Held-out text: not measured."


def _tasks(results: Sequence[Figures]) -> str:
    rows = []
    for result in results:
        for metric in _dicts(result.get("metrics")) or [{"name": "not measured", "filter": "none"}]:
            name = f"{result.get('task')} (mean)" if result.get("group") else result.get("task")
            kept = "" if metric.get("filter") == "none" else f", {metric.get('filter')}"
            figures = [f"{metric.get('name')}{kept}", metric.get("value"), metric.get("stderr")]
            rows.append([name, result.get("num_fewshot"), *figures, result.get("questions")])
    return _table(["task", "shots", "figure", "value", "standard error", "questions"], rows) or "Tasks: not measured."


def _limits(report: Figures, context: int) -> str:
    kind, tokens = _at(report, "config", "objective", "kind"), _said(report.get("tokens"))
    begun = _at(report, "config", "model", "init_from")  # with weights that may know more than this run taught
    before = "; what its first weights had seen is not counted" if begun else ""
    other = f"Whether it follows instructions is {UNKNOWN}; its objective: {_said(kind)}."
    lines = [
        other if begun else LIMITS.get(str(kind), other),
        f"It reads at most {context:,} tokens at once.",
        f"Tokens it was trained on: {tokens}{before}.",
        "Its languages and subjects are those of its training data.",
        "What it writes is likely after that data, which does not make it true.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_said(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _said(value: Any) -> str:
    """A value on one line that Markdown shows as it is, without what a path on this machine begins with."""
    if isinstance(value, Mapping):
        parts = sorted(value.items(), key=lambda pair: pair[0] != "kind")
        parts = [pair for pair in parts if pair[1] is not None or "kind" not in value]  # what a component leaves open
        return ", ".join(f"{_said(key)} {'null' if item is None else _said(item)}" for key, item in parts) or "–"
    if isinstance(value, list | tuple):
        return f"\\[{', '.join(map(_said, value))}\\]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else f"{value:,}"
    text = UNKNOWN if value is None else " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", _last(text) if _ROOTED.match(text) else text)


def _last(path: Any) -> str:
    """The last name of a path, or of a URL without its user and its query."""
    text = re.sub(r"^.*://(?:[^/]*@)?|\?.*$", "", str(path)) if "://" in str(path) else str(path)
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def _at(values: Any, *keys: str) -> Any:
    """What stands in dictionaries of dictionaries; None where there is nothing."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _objects(path: Path, lines: bool = False) -> list[dict[str, Any]]:
    """The object of a JSON file, or of each of its lines; none of a file that is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        return _dicts([json.loads(part) for part in (text.splitlines() if lines else [text])])
    except (OSError, ValueError, RecursionError):
        return []
