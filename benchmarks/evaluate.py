"""Requests of lm-eval a second: ours over the live network, against lm-eval's own `hf` on the same weights exported.

    python benchmarks/evaluate.py              # about ten minutes on two cores, with public benchmarks at hand

A decoder of random weights (6 layers, width 384, context 1,024, 4,096 pieces) is exported as transformers' NanoChat.
Both get the same requests, built by lm-eval, tokenization included. `hf` runs at the best of several batch sizes,
found for each task first; then both run in rounds that alternate, A B A B. Each line is one figure in JSON: medians
over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import peers
from exported import network

# This file's own folder would give lm-eval this file for the package `evaluate`.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

TASKS = (("arc_easy", 5, 2.0), ("hellaswag", 5, 2.0), ("lambada_openai", 0, 1.3))
ZERO_SHOT = (("piqa", 0, 1.2), ("arc_easy", 0, 1.2), ("hellaswag", 0, 1.2))
BATCHES = (1, 4, 16, 64)


def main(arguments: list[str]) -> int:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", action="append", help="lm-eval's names (default: all that have a bar)")
    parser.add_argument("--tiny", action="store_true", help="a smaller network and fewer questions: for tests")
    options = parser.parse_args(arguments)
    missing = peers.absent(["lm_eval", "transformers"])
    public = public_benchmarks()
    if missing or public.SOURCE is None:
        peers.emit(
            benchmark="evaluate", skipped=f"{', '.join(missing)} is not installed" if missing else "no public data"
        )
        return 0
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as place:
        ours, theirs = models(Path(place), options.tiny)
        public.lay_out(Path(place) / "public", 4 if options.tiny else options.questions)
        for name, shots, bar in TASKS[:1] if options.tiny else TASKS + ZERO_SHOT:
            if options.task and name not in options.task:
                continue
            requests = built(name, shots, Path(place) / "public", 4 if options.tiny else options.questions)
            measured(f"{name}, {shots} examples", requests, ours, theirs, options.rounds, bar)
    return 0


def public_benchmarks() -> ModuleType:
    """The module that lays public benchmarks out for lm-eval."""
    path = peers.ROOT / "tests" / "evaluation" / "benchmarks_data.py"
    spec = importlib.util.spec_from_file_location("evaluation_benchmarks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def models(folder: Path, tiny: bool) -> tuple[Any, Callable[[int], Any]]:
    """Our lm-eval model, and theirs by batch size; both in fp32 and without a start token."""
    import transformers
    from lm_eval.models.huggingface import HFLM

    from groundup.evaluation.harness import Harness
    from groundup.evaluation.suite import quiet

    run = network(folder, tiny)
    quiet()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    ours = Harness.create_from_arg_obj({"run": str(run), "start": False})
    hf = HFLM(
        pretrained=str(folder / "hf"), device="cpu", dtype="float32", max_length=1024, batch_size=1, add_bos_token=False
    )

    def theirs(batch: int) -> Any:
        hf.batch_size_per_gpu = batch
        return hf

    return ours, theirs


def built(name: str, shots: int, data: Path, questions: int) -> list[Any]:
    """The requests of a task."""
    from groundup.evaluation.tasks import Catalogue

    (task,) = Catalogue([], str(data), dict).load(name)["tasks"].values()
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=questions, rank=0, world_size=1)
    return list(task.instances)


def measured(name: str, requests: list[Any], ours: Any, theirs: Any, rounds: int, bar: float) -> None:
    """Time both in turn and print the figure."""
    times = {batch: timed(theirs(batch), requests) for batch in BATCHES}
    best = min(times, key=lambda batch: times[batch])
    timed(ours, requests)
    mine, other = [], []
    for _round in range(rounds):
        mine.append(timed(ours, requests))
        other.append(timed(theirs(best), requests))
    rates = [len(requests) / statistics.median(seconds) for seconds in (mine, other)]
    ratio = statistics.median(b / a for a, b in zip(mine, other, strict=True))
    peers.emit(
        benchmark="evaluate",
        figure=f"requests a second, {name}",
        value=round(rates[0], 1),
        hf=round(rates[1], 1),
        hf_batch=best,
        requests=len(requests),
        ratio=round(ratio, 2),
        bar=bar,
        holds=ratio >= bar,
        rounds=rounds,
        machine=peers.machine(),
    )


def timed(model: Any, requests: list[Any]) -> float:
    """Seconds that a model takes to answer."""
    if hasattr(model, "_encode"):
        model._encode.cache_clear()
    begin = time.perf_counter()
    model.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
