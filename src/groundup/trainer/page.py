"""The one-page report of a run, set from its figures; it measures nothing and opens no file but the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.core.bits import MEANINGS, OF_TEXT
from groundup.core.report import Cell, Report, duration, quantity
from groundup.evaluation.page import shown

Figures = Mapping[str, Any]


def page(figures: Figures, picture: Path | None) -> Report:
    """Lay out the figures that `trainer.report.measure` gives.

    Args:
        figures: as stands in report.json.
        picture: of the curves.
    """
    count = quantity(figures["parameters"]["total"])
    report = Report(f"{figures['name']}: a language model of {count} parameters")
    report.tiles(_tiles(figures))
    report.paragraph(_story(figures))
    if picture is not None:
        report.heading("Curves")
        report.figure(picture, "Pale: each logged step. Strong: its running mean. Held-out text is never trained on.")
    _held_out(report, figures)
    _tasks(report, figures)
    _samples(report, figures)
    _data(report, figures)
    _recipe(report, figures)
    _speed(report, figures)
    _environment(report, figures)
    return report


def percent(share: float | None) -> str:
    """A share for people, a dash where it is not known."""
    return "–" if share is None or share != share else f"{share:.1%}"


def _tiles(figures: Figures) -> list[tuple[str, str, str]]:
    speed, parameters, tiles = figures["speed"], figures["parameters"], []
    held_out = figures["held_out"]
    if "all" in held_out:
        tiles.append((figures.get("unit", OF_TEXT), f"{held_out['all']:.3f}", "of held-out text; lower is better"))
    read = "text" if "all" in held_out or not held_out else "examples"
    named = [name for name in ("accuracy", "spearman", "f1") if name in held_out]
    tiles.extend((name, f"{held_out[name]:.3f}", "on held-out examples; higher is better") for name in named)
    tiles.append(("parameters", quantity(parameters["total"]), f"{quantity(parameters['matrix'])} in matrices"))
    tiles.append(
        (
            "tokens",
            quantity(figures["tokens"]),
            f"{figures['epochs']:.2g} times the training {read}",
        )
    )
    if speed["elapsed_seconds"] is not None:
        tiles.append(("time", duration(speed["elapsed_seconds"]), f"on {figures['environment']['device']}"))
    if speed["tokens_per_second"] is not None:
        tiles.append(("tokens per second", quantity(speed["tokens_per_second"]), _used(speed)))
    return tiles


def _used(speed: Figures) -> str:
    if speed["mfu"] is not None:
        return f"MFU {percent(speed['mfu'])}"
    return f"{percent(speed['matrix_share'])} of the matrix rate" if speed["matrix_share"] is not None else ""


def _story(figures: Figures) -> str:
    model, environment = figures["config"]["model"], figures["environment"]
    shape = ", ".join(f"{model[key]} {name}" for key, name in _SHAPE.items() if isinstance(model.get(key), int))
    begun_with = f"the weights of `{model['init_from']}`" if model.get("init_from") else "random weights"
    return (
        f"Run `{figures['name']}/{figures['identity']}`: {figures['steps']:,} steps of groundup "
        f"{environment['groundup']} from {begun_with}, in {figures['precision']}. The network has {shape}."
    )


_SHAPE = {"layers": "layers", "width": "channels", "heads": "heads", "context": "positions", "vocabulary": "token ids"}


def _held_out(report: Report, figures: Figures) -> None:
    if not figures["held_out"]:
        return
    if "all" not in figures["held_out"]:
        _examples(report, figures)
        return
    report.heading("Held-out text")
    unit = figures.get("unit", OF_TEXT)  # a report of an older version does not say
    text = ", which do not depend on the tokenizer" if unit == OF_TEXT else ""
    report.paragraph(
        f"How well the finished weights predict documents they were not trained on: {MEANINGS.get(unit, unit)}{text}."
    )
    sizes = {row["source"]: row for row in figures["data"] if row["split"] == "held_out"}
    before = figures["held_out_first"]
    rows: list[list[Cell]] = []
    for name, value in sorted(figures["held_out"].items(), key=lambda item: item[0] == "all"):
        size = sizes.get(name)
        first: list[Cell] = [f"{before[name]:.4f}" if name in before else None] if before else []
        cells: list[Cell] = [size["documents"], quantity(size["bytes"])] if size else [None, None]
        rows.append([name, *first, f"{value:.4f}", *cells])
    header = ["source", *(["before training"] if before else []), unit]
    report.table([*header, "documents held out", "bytes held out"], rows)


def _examples(report: Report, figures: Figures) -> None:
    found, before = figures["held_out"], figures["held_out_first"]
    report.heading("Held-out examples")
    report.paragraph(
        f"How well the finished weights answer {found['count']:,.0f} examples that they were not trained on. What "
        "always gives one answer (the commonest class, the mean score, or none) is the least there is to surpass."
    )
    if figures.get("shared"):  # a report of an older version does not know
        report.paragraph(
            f"{figures['shared']:,} of them have the texts of an example that was trained on, so what they measure may "
            "be remembered."
        )
    rows: list[list[Cell]] = []
    for name, value in found.items():
        if name != "count" and not name.startswith(CONSTANT):
            first: list[Cell] = [f"{before[name]:.4f}" if name in before else None] if before else []
            same = [f"{found[prefix + name]:.4f}" for prefix in CONSTANT if prefix + name in found]
            rows.append([name.replace("_", " "), *first, f"{value:.4f}", same[0] if same else None])
    header = ["measure", *(["before training"] if before else []), "value", "of one answer to all"]
    report.table(header, rows)


CONSTANT = ("majority_", "mean_", "no_answer_")
"""How the measures of a constant answer are named, before the measure's own name."""


def _tasks(report: Report, figures: Figures) -> None:
    rows = figures.get("tasks")  # a report of an older version has none
    if not rows:
        return
    report.heading("Tasks")
    report.paragraph(
        "Asked while the run trained, with averaged weights where it keeps some: each figure's last value. "
        "`evaluate.py` asks the finished weights."
    )
    report.table(
        ["task", "figure", "value", "at step"],
        [[row["task"], row["figure"], shown(row["value"]), row["step"]] for row in rows],
    )


def _samples(report: Report, figures: Figures) -> None:
    found = figures["samples"]
    if found is None:
        return
    report.heading("What it writes")
    for record in found["texts"]:
        report.sample(record["prompt"], record["text"])
    statistics = found["statistics"]
    if statistics is None:
        return
    n, m, share = statistics["distinct_n"], statistics["copied_n"], figures["compared_share"]
    report.paragraph(
        f"Of these {len(found['texts'])} samples (step {found['step']:,}), prompts not counted, against "
        f"{'all' if share == 1 else percent(share)} of the training text, words in lower case:"
    )
    missing = ", ".join(statistics["invalid"][:8])
    rows = [
        ["words written", f"{statistics['words']:,}", ""],
        [
            "valid words",
            percent(statistics["valid"]),
            "occur in the training text" + (f"; not: {missing}" if missing else ""),
        ],
        [f"distinct {n}-grams", percent(statistics["distinct"]), "low means that it repeats itself"],
        [f"copied {m}-grams", f"{len(statistics['copied'])}", f"runs of {m} words that stand in the training text"],
    ]
    report.table(["statistic", "value", "meaning"], rows)
    for copied in statistics["copied"][:3]:
        report.code(copied)


def _data(report: Report, figures: Figures) -> None:
    report.heading("Data")
    rows: list[Sequence[Any]] = []
    for row in figures["data"]:
        ratio = row["bytes"] / row["tokens"] if row["tokens"] else float("nan")
        sizes = [f"{row['documents']:,}", quantity(row["tokens"]), quantity(row["bytes"]), f"{ratio:.2f}"]
        rows.append([row["split"].replace("_", " "), row["source"], *sizes])
    report.table(["split", "source", "documents", "tokens", "bytes", "bytes per token"], rows)


def _recipe(report: Report, figures: Figures) -> None:
    report.heading("Recipe")
    rows = []
    for name in ("model", "data", "objective", "optimizer", "schedule"):
        values = dict(figures["config"].get(name) or {})
        kind = values.pop("kind", "")
        shown = ", ".join(f"{key} {_value(value)}" for key, value in values.items() if value not in (None, [], {}))
        rows.append([name, str(kind), shown])
    report.table(["part", "kind", "options"], rows)
    if len(figures["segments"]) > 1:
        report.paragraph("The config changed on the way:")
        rows = [[f"{s['first']:,}", s["reason"], _value(s["set"])] for s in figures["segments"]]
        report.table(["from step", "because", "set"], rows)
    report.paragraph(f"Seed {figures['config'].get('seed')}. The whole config stands in `segments.jsonl`.")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_value(item)}" for key, item in value.items()) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _speed(report: Report, figures: Figures) -> None:
    speed = figures["speed"]
    report.heading("Speed")
    rows: list[Sequence[Any]] = [
        ["model FLOPs per token", quantity(figures["flops_per_token"])],
        ["model FLOPs of the run", f"{figures['flops_per_token'] * figures['tokens']:.3g}"],
        ["tokens per second, median", _optional(speed["tokens_per_second"])],
        ["MFU, median", percent(speed["mfu"])]
        if speed["matrix_share"] is None
        else ["share of the matrix rate measured here, median", percent(speed["matrix_share"])],
        ["time in steps", "–" if speed["training_seconds"] is None else duration(speed["training_seconds"])],
        ["time in all", "–" if speed["elapsed_seconds"] is None else duration(speed["elapsed_seconds"])],
    ]
    if speed["memory_bytes"] is not None:
        rows.append(["device memory, most at once", f"{speed['memory_bytes'] / 2**30:.2f} GiB"])
    report.table(["figure", "value"], rows)
    report.paragraph(
        "MFU = tokens/s × model FLOPs per token / peak of the devices, where the model FLOPs are 6 per matrix "
        "parameter (output head included, embedding look-up not) and 12 × layers × width × context for attention "
        "(PaLM, appendix B); recomputed ones do not count. Where the device's peak is not published, the rate of "
        "its own matrix product, measured before training, takes the peak's place. Time in all includes "
        "compilation, validation, samples and checkpoints, and leaves out steps that were lost to a kill."
    )


def _optional(value: float | None) -> str:
    return "–" if value is None else quantity(value)


def _environment(report: Report, figures: Figures) -> None:
    report.heading("Environment")
    report.table(["part", "what"], [[name, str(value)] for name, value in figures["environment"].items()])
