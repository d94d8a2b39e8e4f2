"""A line about the run now and then: plain where it goes to a file, live on a terminal; only the first rank speaks."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback import config
from groundup.callback.throughput import Throughput, throughput
from groundup.callback.watched import Watched, watched
from groundup.core.bits import told
from groundup.core.report import duration, quantity

_LIVE_SECONDS = 1.0


class Progress(Callback):
    """Prints where the run stands. Reading the loss waits for the device, so it is read only for a line."""

    def __init__(self, options: config.Progress) -> None:
        self.every_steps = options.every_steps
        self.every_seconds = options.every_seconds
        self._told = 0.0
        self._told_step: int | None = None
        self._first: tuple[float, int] | None = None
        self._live = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier segment told."""
        self._first, self._told, self._told_step = None, 0.0, None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell, if it is time to."""
        if not trainer.is_global_zero:
            return
        steps, now = watched(pl_module).progress.steps, time.monotonic()
        first = self._first is None
        self._first = self._first or (now, steps)
        if first or self._due(now, steps):
            self._tell(trainer, watched(pl_module), now)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell what the held-out text gave."""
        figures = watched(pl_module).validation
        if trainer.is_global_zero and figures and not trainer.sanity_checking:
            self._show(
                describe_validation(watched(pl_module).progress.steps, figures, watched(pl_module).unit), last=True
            )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell where training stopped, and leave that line standing."""
        if trainer.is_global_zero and self._first is not None and self._told_step != watched(pl_module).progress.steps:
            self._tell(trainer, watched(pl_module), time.monotonic())
        self._finish()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the live line standing above the error."""
        self._finish()

    def _tell(self, trainer: Trainer, module: Watched, now: float) -> None:
        self._told, self._told_step = now, module.progress.steps
        self._show(describe(module, throughput(trainer), self._left(module, now)), last=False)

    def _due(self, now: float, steps: int) -> bool:
        if self.every_steps is not None and steps % self.every_steps == 0:
            return True
        if self.every_seconds is None:
            return False
        return now - self._told >= (min(_LIVE_SECONDS, self.every_seconds) if _is_live() else self.every_seconds)

    def _left(self, module: Watched, now: float) -> float | None:
        """Seconds to the end at the pace since the first step, which compiles and is left out; pauses count."""
        assert self._first is not None
        since, steps = self._first
        if module.progress.steps <= steps:
            return None
        return (now - since) / (module.progress.steps - steps) * max(0, module.total.steps - module.progress.steps)

    def _show(self, text: str, *, last: bool) -> None:
        if _is_live():
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[2K{text if last else text[:width]}" + ("\n" if last else ""))
            self._live = not last
        else:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _finish(self) -> None:
        if self._live:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._live = False


def describe(module: Watched, speed: Throughput | None, left: float | None) -> str:
    """Where a run stands, in one line; what is not known is left out."""
    progress, total, last = module.progress, module.total, module.last
    width = len(str(total.steps))
    parts = [f"step {progress.steps:>{width}}/{total.steps}", f"{quantity(progress.tokens)} tokens"]
    if "loss" in last:
        parts.append(f"loss {float(last['loss']):.4f}")
    if "all" in module.validation:
        parts.append(f"held-out {module.validation['all']:.4f} {module.unit.replace(' per ', '/')}")
    if "rate" in last:
        parts.append(f"rate {float(last['rate']):.2e}")
    if "gradient_norm" in last:
        parts.append(f"gradient {float(last['gradient_norm']):.2f}")
    if speed is not None and speed.tokens_per_second is not None:
        parts.append(f"{quantity(speed.tokens_per_second)} tokens/s")
        if speed.mfu is not None:
            parts.append(f"MFU {speed.mfu:.1%}")
        elif speed.matrix_share is not None:
            parts.append(f"{speed.matrix_share:.0%} of matrix rate")
    if left is not None and progress.steps < total.steps:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def describe_validation(steps: int, figures: Mapping[str, float], unit: str) -> str:
    """Figures of the held-out text, in one line."""
    return f"step {steps}  {told(figures, unit)}"


def _is_live() -> bool:
    return sys.stdout.isatty()
