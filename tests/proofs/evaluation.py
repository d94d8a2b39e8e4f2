"""Claims of evaluation: our answers are those of lm-eval's own model on the same weights, request by request."""

from __future__ import annotations

import functools
import importlib.util
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from groundup.core.config import from_dict
from groundup.evaluation.harness import Harness
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import quiet
from groundup.evaluation.tasks import Catalogue
from groundup.interop.folder import export
from groundup.model import config as _  # noqa: F401  # registers the decoder
from groundup.model.load import load
from groundup.tokenizer.load import load as load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 300
CONTEXT = 1024
NEAR = 1e-4
"""Two likeliest tokens whose logits are nearer than this may change places by rounding."""


def public_benchmarks() -> ModuleType:
    """The module that lays public benchmarks out.

    Raises:
        FileNotFoundError: they are not there.
    """
    path = ROOT / "tests" / "evaluation" / "benchmarks_data.py"
    spec = importlib.util.spec_from_file_location("evaluation_benchmarks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if module.SOURCE is None:
        raise FileNotFoundError(f"no public benchmarks at {ROOT.parent / 'shared/data/eval'}")
    return module


@functools.cache
def world() -> tuple[Path, ModuleType]:
    """A folder with `run`, a default decoder of context 1,024 after some steps, `hf`, its export, and `public`."""
    quiet()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    place, module = Path(tempfile.mkdtemp(prefix="groundup-proof-")), public_benchmarks()
    train = [f"data.path={place}/data", f"runs={place}/runs", "tokens=409600", "trainer.compile=false"]
    train += [f"data.context={CONTEXT}", "data.batch_tokens=8192", "data.micro_batch=4", "callback=[checkpoint]"]
    for line in (["prepare.py", f"path={place}/data"], ["train.py", *train]):
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (run,) = (place / "runs" / "nano").iterdir()
    run.rename(place / "run")
    export(place / "run", place / "hf")
    module.lay_out(place / "public", QUESTIONS)
    return place, module


def requests(name: str, shots: int) -> list[Any]:
    """What lm-eval asks of a task; of a `.yaml`, its file."""
    place, _module = world()
    catalogue = Catalogue([], str(place / "public"), dict)
    (task,) = catalogue.load(str(place / "public" / name) if name.endswith(".yaml") else name)["tasks"].values()
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=QUESTIONS, rank=0, world_size=1)
    return list(task.instances)


@functools.cache
def theirs() -> Any:
    """lm-eval's own model on the export."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(world()[0] / "hf"),
        device="cpu",
        dtype="float32",
        max_length=CONTEXT,
        batch_size=16,
        add_bos_token=False,
    )


def ours(batch: int) -> Harness:
    """Our model on the run, so many requests at a time."""
    return Harness.create_from_arg_obj({"run": str(world()[0] / "run"), "start": False}, {"batch_size": batch})


def compared() -> Iterator[tuple[str, list[float], list[float]]]:
    """Answers of both to every request of four tasks, zero- and five-shot, and of whole texts, at batch 1 and 16."""
    four = [(name, shots) for name in world()[1].TASKS for shots in (0, 5)]
    for name, shots in [*four, ("tales.yaml", 0)]:
        asked = requests(name, shots)
        kind = asked[0].request_type
        for batch in (1, 16):
            hf = theirs()
            hf.batch_size_per_gpu = batch
            mine, other = getattr(ours(batch), kind)(asked), getattr(hf, kind)(asked, disable_tqdm=True)
            if kind == "loglikelihood":
                for (_, a), (_, b) in zip(mine, other, strict=True):
                    if a != b:
                        print(f"{name}: one of the two says that the answer is the likeliest", file=sys.stderr)
                mine, other = [total for total, _ in mine], [total for total, _ in other]
            print(f"{name}, {shots} examples, batch {batch}: {len(mine)} requests", file=sys.stderr, flush=True)
            yield name, mine, other


def answers_that_differ() -> tuple[float, int]:
    """Requests whose likelihood is neither within 1e-4 nor within 1e-6 of itself of lm-eval's own."""
    count, differing = 0, 0
    for name, mine, other in compared():
        a, b = np.asarray(mine), np.asarray(other)
        off = np.abs(a - b)
        wrong = off > np.maximum(1e-4, 1e-6 * np.abs(b))
        if wrong.any():
            print(f"{name}: {wrong.sum()} differ, by {off.max():.2e} at most", file=sys.stderr)
        count, differing = count + len(a), differing + int(wrong.sum())
    return float(differing), count


def written_texts_that_differ() -> tuple[float, int]:
    """Texts generated otherwise, before the first choice that rounding could turn."""
    asked = requests("going_on.yaml", 0)[:60]
    hf = theirs()
    net, tokenizer = load(world()[0] / "run"), load_tokenizer(world()[0] / "run" / "tokenizer")
    differing = 0
    for batch in (1, 16):
        hf.batch_size_per_gpu = batch
        mine, other = ours(batch).generate_until(asked), hf.generate_until(asked, disable_tqdm=True)
        for request, a, b in zip(asked, mine, other, strict=True):
            if a != b and not close_call(net, tokenizer, request.args[0], a, b):
                differing += 1
                print(f"{request.args[0]!r}: {a!r} here, {b!r} there", file=sys.stderr)
    return float(differing), 2 * len(asked)


def command_line_failures() -> tuple[float, int]:
    """Runs of lm-eval's own command line over a run folder that fail, or whose table lacks the task."""
    place, _module = world()
    command = [sys.executable, "-m", "groundup.evaluation", "run", "--model", "groundup", "--batch_size", "16"]
    command += ["--model_args", f"run={place / 'run'},start=False", "--tasks", str(place / "public" / "tales.yaml")]
    done = subprocess.run([*command, "--limit", "4"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    return float(done.returncode != 0 or "bits_per_byte" not in done.stdout), 1


@torch.no_grad()
def close_call(net: Any, tokenizer: Any, prompt: str, mine: str, other: str) -> bool:
    """Whether the two likeliest tokens were as good as equal where two answers part."""
    a, b = tokenizer.encode(mine), tokenizer.encode(other)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    logits_V = net(torch.tensor([[*tokenizer.encode(prompt), *a[:same]]]))[0, -1]
    first, second = logits_V.topk(2).values.tolist()
    return bool(first - second < NEAR)


def scores_of_known_models_that_are_wrong() -> tuple[float, int]:
    """Of the four tasks: an oracle not at 1, an anti-oracle not at 0, equal tokens not at the analytic value."""
    import lm_eval.evaluator

    place, module = world()
    tokenizer = load_tokenizer(place / "run" / "tokenizer")
    net = (
        from_dict(
            "model",
            {"kind": "decoder", "layers": 1, "width": 32, "heads": 2, "context": 1024}
            | {"vocabulary": tokenizer.vocabulary},
        )
        .build()
        .eval()
    )
    with torch.no_grad():
        net.head.weight.zero_()
    wrong = count = 0
    for name in module.TASKS:
        for model, expected in (
            (module.Knowing(tokenizer), 1.0),
            (module.Knowing(tokenizer, wrong=True), 0.0),
            (Scorer(net, tokenizer, 16_384), analytic(name, tokenizer, requests(name, 0))),
        ):
            loaded = Catalogue([], str(place / "public"), dict).load(name)
            harness = Harness(model, tokenizer, start=False)
            found = lm_eval.evaluator.evaluate(harness, loaded, limit=QUESTIONS, bootstrap_iters=0)
            value = found["results"][name]["acc,none"]
            count += 1
            if abs(value - expected) > 1e-9:
                wrong += 1
                print(f"{name}: {type(model).__name__} scores {value}, not {expected}", file=sys.stderr)
    return float(wrong), count


def analytic(name: str, tokenizer: Any, asked: list[Any]) -> float:
    """The accuracy of a model to which all tokens are equal: the answer of fewest tokens wins, the first of ties."""
    if name == "lambada_openai":  # the likeliest token is the first of all, which is no word
        return float(
            np.mean([tokenizer.encode("".join(r.args))[len(tokenizer.encode(r.args[0])) :] == [0] for r in asked])
        )
    tokens: dict[int, list[int]] = {}
    for request in sorted(asked, key=lambda request: (request.doc_id, request.idx)):
        context, continuation = request.args
        whole, before = tokenizer.encode(context + continuation), tokenizer.encode(context)
        tokens.setdefault(request.doc_id, []).append(len(whole) - len(before))
    rows = {"piqa": "piqa_valid", "arc_easy": "arc_easy_test", "hellaswag": "hellaswag_val"}
    module = world()[1]
    gold = [row.get("label", row.get("gold")) for row in module.raw(rows[name])[:QUESTIONS]]
    return float(np.mean([int(np.argmin(tokens[number])) == gold[number] for number in sorted(tokens)]))


def programs_that_stumble() -> tuple[float, int]:
    """Of train.py, evaluate.py and a sweep, those that fail on a task which imports the PyPI package `evaluate`."""
    place, _module = world()
    folder = place / "mine"
    folder.mkdir()
    (folder / "utils.py").write_text(
        "import evaluate\n\n\ndef process(doc, results):\n"
        "    assert hasattr(evaluate, 'load'), evaluate.__file__\n    return {'acc': 1.0}\n"
    )
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {place}/public/tales.jsonl}}}}\n"
        'output_type: loglikelihood\ntest_split: test\ndoc_to_text: "{{text[:80]}}"\ndoc_to_target: " end"\n'
        "process_results: !function utils.process\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    task = f"[{folder}/mine.yaml]"
    small = [f"data.path={place}/data", "model.layers=1", "model.width=32", "model.heads=2", "trainer.compile=false"]
    small += ["data.batch_tokens=4096", "tokens=131072", "callback=[checkpoint,evaluation]", "trainer.validate_every=4"]
    small += [f"callback.evaluation.tasks={task}", "callback.evaluation.limit=4", "data.held_out_tokens=4096"]
    run = [f"run={place}/run", f"evaluation.tasks={task}", "evaluation.limit=4", f"out={place}/out", "prompts=[]"]
    sweep = ["--multirun", "sweep=lr_batch", "sweep.trials=1"]
    failed = 0
    for line in (
        ["train.py", *small, f"runs={place}/a"],
        ["evaluate.py", *run],
        ["train.py", *sweep, *small, f"runs={place}/b"],
    ):
        done = subprocess.run([sys.executable, *line], cwd=ROOT, capture_output=True, text=True, check=False)
        told = "mine: failed" in done.stdout or "mine.yaml: failed" in done.stdout
        if done.returncode or told:
            failed += 1
            print(done.args, done.stdout[-1500:], done.stderr[-1500:], sep="\n", file=sys.stderr)
    return float(failed), 3
