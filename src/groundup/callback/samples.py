"""What the model writes after fixed prompts, now and then; training goes on as if nobody had asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback import config
from groundup.callback.ema import averaged
from groundup.callback.throughput import paused
from groundup.callback.watched import Watched, watched
from groundup.core.errors import DataError
from groundup.core.files import atomic_write
from groundup.core.keyed import derive
from groundup.core.report import fenced, quantity
from groundup.generation import sample
from groundup.model.decoder import Decoder
from groundup.tokenizer.protocol import Tokenizer

RECORDS = "samples.jsonl"
"""One JSON object a line: step, tokens, averaged, prompt, text."""

PAGE = "samples.md"
"""The same for people, newest first."""


class Samples(Callback):
    """Writes samples.jsonl and samples.md into the run folder, every so many steps and at the end.

    The draws are keyed by seed and step and come from generators of their own; torch's are put back, and so
    is the mode of every module. With an averaging callback it is the averaged weights that write.
    """

    def __init__(self, options: config.Samples) -> None:
        self.options = options
        self._done: int | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the samples of steps that are to be done again."""
        self._done = None
        if trainer.is_global_zero:
            rewind(watched(pl_module).folder, watched(pl_module).progress.steps)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is time to."""
        if self.options.every is not None and watched(pl_module).progress.steps % self.options.every == 0:
            self._write(trainer, watched(pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the trained model says."""
        self._write(trainer, watched(pl_module))

    def _write(self, trainer: Trainer, module: Watched) -> None:
        step = module.progress.steps
        alone = getattr(trainer.strategy, "whole", True)  # else a net can be asked by all ranks together alone
        if (alone and not trainer.is_global_zero) or module.tokenizer is None or self._done == step:
            return
        if not hasattr(module.nets["model"], "new_cache"):  # a plugin's network need not be able to write
            return
        self._done = step
        with paused(trainer), averaged(trainer) as average, undisturbed(module):
            texts = self._texts(module, module.tokenizer, step)
        if not trainer.is_global_zero:
            return
        add(
            module.folder,
            [
                {"step": step, "tokens": module.progress.tokens, "averaged": average, "prompt": prompt, "text": text}
                for prompt, text in zip(self.options.prompts, texts, strict=True)
            ],
        )

    def _texts(self, module: Watched, tokenizer: Tokenizer, step: int) -> list[str]:
        options = self.options
        return sample(
            cast(Decoder, module.nets["model"]),
            tokenizer,
            options.prompts,
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=derive(options.seed, "samples", step),
        )


@contextmanager
def undisturbed(module: Watched) -> Iterator[None]:
    """In this block the nets are in evaluation mode; after it they and torch's generators are as before."""
    modes = {part: part.training for part in module.nets.modules()}
    device = module.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        module.nets.eval()
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run folder, oldest first; none if there is no file.

    Raises:
        DataError: a line that is no record.
    """
    path = folder / RECORDS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise DataError(str(path), f"is damaged: {error}", "delete it; the run writes new samples") from None


def add(folder: Path, records: list[dict[str, Any]]) -> None:
    """Add records to both files.

    Raises:
        StorageError: one cannot be written; each is old or new as a whole.
    """
    _replace(folder, read(folder) + records)


def rewind(folder: Path, step: int) -> None:
    """Drop the records of later steps, as if the run had stopped at `step`.

    Raises:
        StorageError: a file cannot be written.
    """
    records = read(folder)
    kept = [record for record in records if record["step"] <= step]
    if kept != records:
        _replace(folder, kept)


def _replace(folder: Path, records: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    atomic_write(folder / RECORDS, "".join(f"{line}\n" for line in lines))
    atomic_write(folder / PAGE, _page(records))


def _page(records: list[dict[str, Any]]) -> str:
    parts, step = ["# Samples"], None
    for record in sorted(records, key=lambda record: -int(record["step"])):
        if record["step"] != step:
            step = record["step"]
            averaged = ", averaged weights" if record["averaged"] else ""
            parts.append(f"## Step {step:,} ({quantity(record['tokens'])} tokens{averaged})")
        parts.append(fenced(f"{record['prompt']}{record['text']}"))
    return "\n\n".join(parts) + "\n"
