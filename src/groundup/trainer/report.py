"""The report of a finished run: every figure is measured from its folder, its data or what it returned."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from groundup.callback import curves, samples
from groundup.callback.history import METRICS, SPEED, Series, read
from groundup.core.bits import OF_TEXT
from groundup.core.config import to_dict
from groundup.core.files import atomic_json
from groundup.core.progress import Progress
from groundup.data.config import AUTO
from groundup.data.examples import ABOUT
from groundup.data.opening import storage_of
from groundup.evaluation.samples import Sample, examine
from groundup.shard.manifest import Manifest, sets_of
from groundup.shard.storage import Storage
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import Tokenizer
from groundup.trainer import environment
from groundup.trainer import segments as segment_list
from groundup.trainer.device import device_of
from groundup.trainer.micro_batch import Found
from groundup.trainer.page import page
from groundup.trainer.run import Outcome, Recipe

FIGURES = "report.json"
COMPARED_TOKENS = 200_000_000
"""Samples are compared with so many tokens of training text at most, first shards first; the page says what share."""


def write_run_report(folder: Path, recipe: Recipe, outcome: Outcome) -> Path:
    """Write report.html, report.md, report.json and curves.png into a run folder.

    Args:
        folder: of the run.
        recipe: its config.
        outcome: of its training, with the held-out figures of the final weights.

    Returns:
        The HTML page.

    Raises:
        StorageError: a file cannot be written.
        DataError: one of the run's files, or its data, is damaged.
    """
    figures = measure(folder, recipe, outcome)
    atomic_json(folder / FIGURES, finite(figures))
    return page(figures, curves.draw(folder, figures["unit"])).write(folder)[0]


def measure(folder: Path, recipe: Recipe, outcome: Outcome) -> dict[str, Any]:
    """Every figure of the report, as plain values."""
    storage = storage_of(recipe.data)
    manifest = Manifest.read(storage)
    config, segments = segment_list.read(folder)
    data = data_rows(manifest)
    trained = tokens_once(manifest)
    accelerator, precision = device_of(recipe.trainer)
    logged = read(folder / METRICS)
    return {
        "name": recipe.name,
        "identity": folder.name,
        "steps": outcome.progress.steps,
        "tokens": outcome.progress.tokens,
        "epochs": epochs(manifest, outcome.progress, trained),
        "parameters": recipe.model.parameters(),
        "flops_per_token": recipe.model.flops_per_token(),
        "precision": precision,
        "held_out": dict(outcome.held_out),
        "unit": getattr(recipe.objective, "unit", OF_TEXT),
        "held_out_first": held_out_first(logged),
        "shared": manifest.about.get(ABOUT, {}).get("shared"),
        "tasks": task_figures(logged),
        "speed": speed_figures(read(folder / SPEED)),
        "samples": sample_figures(samples.read(folder), training_texts(storage, load_tokenizer(folder / "tokenizer"))),
        "compared_share": min(1.0, COMPARED_TOKENS / trained) if trained else 0.0,
        "data": data,
        "config": {**config, "model": to_dict(recipe.model)},
        "segments": [{"first": s.first.steps, "reason": s.reason, "set": s.set} for s in segments],
        "environment": {**environment.summary(accelerator), **micro_batch(folder, recipe)},
    }


def epochs(manifest: Manifest, progress: Progress, trained: int) -> float:
    """How often the training text, or each of the examples, was read."""
    if ABOUT in manifest.about:
        return progress.samples / int(manifest.about[ABOUT]["counts"]["train"])
    return progress.tokens / trained if trained else float("nan")


def held_out_first(series: Mapping[str, Series]) -> dict[str, float]:
    """Held-out figures before the first step by source, or measures on examples; empty where nobody looked."""
    return {
        name.partition("/")[2]: found.values[0]
        for name, found in series.items()
        if name.startswith(("held_out/", "examples/")) and found.steps[:1] == [0]
    }


def task_figures(series: Mapping[str, Series]) -> list[dict[str, Any]]:
    """The last figure of every task that was asked while the run trained; empty where none was."""
    prefix, rows = "evaluation/", []
    for name, found in series.items():
        if name.startswith(prefix):
            task, _, figure = name.removeprefix(prefix).rpartition("/")
            rows.append({"task": task, "figure": figure, "value": found.values[-1], "step": found.steps[-1]})
    return rows


def speed_figures(series: Mapping[str, Series]) -> dict[str, float | None]:
    """Medians of the rates, and the times summed over every part of a run that was resumed."""

    def median(name: str) -> float | None:
        found = series.get(f"speed/{name}")
        return statistics.median(found.values) if found and found.values else None

    def total(name: str) -> float | None:
        found = series.get(f"speed/{name}")
        return over_restarts(found.values) if found and found.values else None

    memory = series.get("speed/memory_bytes")
    return {
        "tokens_per_second": median("tokens_per_second"),
        "mfu": median("mfu"),
        "matrix_share": median("matrix_share"),
        "training_seconds": total("training_seconds"),
        "elapsed_seconds": total("elapsed_seconds"),
        "memory_bytes": max(memory.values) if memory and memory.values else None,
    }


def over_restarts(clock: Iterable[float]) -> float:
    """The whole time shown by a clock that is read as zero whenever it starts again."""
    whole, before = 0.0, 0.0
    for now in clock:
        whole += now - before if now >= before else now
        before = now
    return whole


def sample_figures(records: list[dict[str, Any]], texts: Iterable[str]) -> dict[str, Any] | None:
    """The last samples and their statistics against the training text; None where there are no samples."""
    if not records:
        return None
    step = records[-1]["step"]
    last = [record for record in records if record["step"] == step]
    found = examine([Sample(record["prompt"], record["text"]) for record in last], texts)
    return {
        "step": step,
        "texts": [{"prompt": record["prompt"], "text": record["text"]} for record in last],
        "statistics": asdict(found),
    }


def training_texts(storage: Storage, tokenizer: Tokenizer, most_tokens: int = COMPARED_TOKENS) -> Iterator[str]:
    """The documents of the training shards, one at a time, until so many tokens are read.

    Raises:
        DataError: the shards are gone or damaged.
    """
    manifest = Manifest.read(storage)
    left, dtype = most_tokens, np.dtype(manifest.tokenizer.dtype).newbyteorder("<")
    held = manifest.splits.get("train", {})
    for first, *_ in sets_of(held).values():
        for shard in held[first].shards:
            path = storage.path(shard.data.file, shard.data.size, shard.data.sha256)
            tokens = np.memmap(path, dtype=dtype, mode="r")[: max(0, left)]
            left -= len(tokens)
            start = 0
            for stop in np.flatnonzero(tokens == manifest.tokenizer.end):
                yield tokenizer.decode(tokens[start:stop].tolist())
                start = int(stop) + 1


def tokens_once(manifest: Manifest) -> int:
    """The tokens of the training text read once: of a source in several sampled sets, their mean."""
    held = manifest.splits.get("train", {})
    return sum(round(sum(held[name].tokens for name in names) / len(names)) for names in sets_of(held).values())


def data_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """What each split holds of each source."""
    return [
        {
            "split": split,
            "source": name,
            "documents": holding.documents,
            "tokens": holding.tokens,
            "bytes": holding.bytes,
        }
        for split, sources in manifest.splits.items()
        for name, holding in sources.items()
    ]


def micro_batch(folder: Path, recipe: Recipe) -> dict[str, str]:
    """What was found for `data.micro_batch=auto`; nothing where a number was given."""
    last = Found(folder).last if recipe.data.micro_batch == AUTO else None
    return {} if last is None else {"micro-batch": f"{last['rows']} sequences on each rank, {last['why']}"}


def finite(value: Any) -> Any:
    """The value with None in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
