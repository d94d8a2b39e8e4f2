"""The curves of a run as one picture, drawn from its metrics file; it needs that file and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback import config
from groundup.callback.history import METRICS, Series, read
from groundup.callback.throughput import paused
from groundup.callback.watched import Watched, watched
from groundup.core.bits import OF_TEXT
from groundup.core.report import Line, Panel, curve_png

PICTURE = "curves.png"
HELD_OUT = "held_out/"
"""Held-out figures, bits per byte say, are logged under this and the name of their source."""

EXAMPLES = "examples/"
"""Measures on held-out examples are logged under this and their name."""


class Curves(Callback):
    """Draws curves.png in the run folder, every so many steps and at the end."""

    def __init__(self, options: config.Curves) -> None:
        self.every = options.every
        self._done: int | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier segment drew."""
        self._done = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if it is time to."""
        if self.every is not None and watched(pl_module).progress.steps % self.every == 0:
            self._draw(trainer, watched(pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer, watched(pl_module))

    def _draw(self, trainer: Trainer, module: Watched) -> None:
        if trainer.is_global_zero and self._done != module.progress.steps:
            self._done = module.progress.steps
            with paused(trainer):
                draw(module.folder, module.unit)


def draw(folder: Path, unit: str = OF_TEXT) -> Path | None:
    """Draw loss, held-out figures, gradient norm and rate from metrics.csv; what was not logged is left out.

    Args:
        folder: of the run.
        unit: what its held-out figures are in.

    Returns:
        The picture, or None if nothing was logged yet.

    Raises:
        DataError: the metrics file is damaged.
        StorageError: the picture cannot be written.
    """
    panels = panels_of(read(folder / METRICS), unit)
    if not panels:
        return None
    curve_png(folder / PICTURE, panels, x_label="step")
    return folder / PICTURE


def panels_of(metrics: Mapping[str, Series], unit: str = OF_TEXT) -> list[Panel]:
    """The panels that these metrics fill."""
    held_out = [
        _line(name.removeprefix(HELD_OUT), series) for name, series in metrics.items() if name.startswith(HELD_OUT)
    ]
    held_out.sort(key=lambda line: line.name != "all")
    if len(held_out) == 2 and held_out[0].name == "all":
        del held_out[0]  # of a single source it says nothing more
    panels = []
    examples = [
        _line(name.removeprefix(EXAMPLES), series)
        for name, series in metrics.items()
        if name.startswith(EXAMPLES) and name != f"{EXAMPLES}count"
    ]
    if "train/loss" in metrics:
        title = f"training loss ({'per example' if examples else 'nats per token'})"
        panels.append(Panel(title, [_line("loss", metrics["train/loss"])], smooth=True, trim=True))
    if examples:
        panels.append(Panel("held-out examples", examples))
    if held_out:
        panels.append(Panel(f"held-out {unit}", held_out))
    if "train/gradient_norm" in metrics:
        line = _line("gradient norm", metrics["train/gradient_norm"])
        panels.append(Panel("gradient norm", [line], smooth=True, logarithmic=True))
    if "train/rate" in metrics:
        panels.append(Panel("learning rate", [_line("rate", metrics["train/rate"])]))
    return panels


def _line(name: str, series: Series) -> Line:
    return Line(name, series.steps, series.values)
