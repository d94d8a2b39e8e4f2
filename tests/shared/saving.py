"""A writer of checkpoints at work on a small run, whose calls to the disk are recorded.

saving.py FOLDER [SAVES] does the same as a program, so that another can watch it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from power import Recorder

from groundup.callback.writing import Request, Writer
from groundup.core import checkpoint

RUN = Path("runs/nano/0123")
KEEP = 2


def tensors(step: int) -> dict[str, torch.Tensor]:
    """A state that differs from step to step."""
    generator = torch.Generator().manual_seed(step)
    shapes = {"nets/model.embed": (16, 8), "optimizer/model.embed/exp_avg": (16, 8), "optimizer/model.embed/step": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def save(writer: Writer, run: Path, step: int, retire: Callable[[], None] = lambda: None) -> None:
    """One checkpoint, written to its end."""
    writer.save(Request(run, step, tensors(step), {"step": step}, retire))
    writer.wait()


def saved(root: Path, steps: list[int], say: Callable[[Any], None] = lambda _: None) -> dict[int, bytes]:
    """Checkpoints of some steps, old ones deleted; the manifest of each. `say` hears of each when it is complete."""
    writer, manifests, run = Writer(asynchronous=True, alone=True), {}, root / RUN
    for step in steps:
        outdated = partial(checkpoint.outdated, newest=step, keep_latest=KEEP, keep={2})
        save(writer, run, step, partial(checkpoint.prune, run, outdated))
        say(step)
        manifests[step] = (checkpoint.path_of(run, step) / checkpoint.MANIFEST).read_bytes()
    return manifests


def recorded(
    root: Path, steps: list[int], setattr: Callable[[Any, str, Any], None]
) -> tuple[Recorder, dict[int, bytes]]:
    """The same, recorded; `setattr` as pytest's monkeypatch has it."""
    recorder = Recorder(root)
    recorder.install(setattr)
    return recorder, saved(root, steps, recorder.say)


if __name__ == "__main__":
    saved(Path(sys.argv[1]), list(range(1, 1 + int(sys.argv[2]))))
