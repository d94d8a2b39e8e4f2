"""What monitor and recovery take of a training step: the time inside them as a share of the step's, on this machine.

    python benchmarks/watch.py                        # the default run's network, 8,192 tokens a step
    python benchmarks/watch.py model=gpt2-124m data.batch_tokens=65536 trainer.accelerator=cuda

Further words are overrides of train.py. Every call into the two is timed: the gates before an update, the look between
micro-batches, and the hooks at a step's end. On a GPU the wait for the device that recovery's answer costs is in it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import peers

import groundup.verb.prepare  # noqa: F401  # registers the groups
from groundup.callback.monitor import Monitor
from groundup.callback.recovery import Recovery
from groundup.core.config import compose, option, schema
from groundup.verb.train import Train

WARM, STEPS, TOKENS = 20, 121, 8192
"""Steps before any is timed, and in all; tokens of a step where nothing else is said."""


@schema("callback", "stopwatch")
class Options:
    """Times what the callbacks before it do."""

    warm: int = option(WARM, "steps that are not timed")

    def build(self) -> lightning.Callback:
        """The callback."""
        return Stopwatch(self.warm)


class Stopwatch(lightning.Callback):
    """Seconds of each step, and of those inside monitor and recovery; to stand behind them.

    Args:
        warm: steps that are not timed.
    """

    steps: list[float]
    inside: list[float]

    def __init__(self, warm: int) -> None:
        self.warm, self.spent, self.began, self.number = warm, 0.0, 0.0, 0
        Stopwatch.steps, Stopwatch.inside = [], []

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, with the seconds it takes added up."""

        def timing(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - begun

        return timing

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stand before all that was put in their place by now."""
        pl_module.gates[:] = [self.timed(gate) for gate in pl_module.gates]
        pl_module.between[:] = [self.timed(look) for look in pl_module.between]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Monitor | Recovery):
                callback.on_train_batch_end = self.timed(callback.on_train_batch_end)  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A step begins where the last one ended."""
        del trainer, pl_module, batch, batch_idx
        now = time.perf_counter()
        if self.number > self.warm:
            self.steps.append(now - self.began)
            self.inside.append(self.spent)
        self.began, self.spent, self.number = now, 0.0, self.number + 1


def measure(overrides: list[str]) -> dict[str, float]:
    """Train some steps and give the medians: seconds of a step, those inside, and the mean share of all steps."""
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as work:
        config: Any = compose.composed(peers.ROOT / "conf", "prepare", f"path={work}/data")
        config.check()
        config.run()
        words = [f"data.batch_tokens={TOKENS}", "trainer.validate_every=null", f"stop_steps={STEPS}", *overrides]
        watching = ["callback=[checkpoint,monitor,recovery,stopwatch]", "callback.checkpoint.every=null"]
        train: Train = compose.composed(
            peers.ROOT / "conf", "train", f"data.path={work}/data", f"runs={Path(work) / 'runs'}", *words, *watching
        )
        train.check()
        train.run()
    return {
        "step_ms": round(1e3 * statistics.median(Stopwatch.steps), 2),
        "inside_ms": round(1e3 * statistics.mean(Stopwatch.inside), 3),
        "share": sum(Stopwatch.inside) / sum(Stopwatch.steps),
    }


if __name__ == "__main__":
    peers.emit(benchmark="watch", figure="time inside monitor and recovery", **measure(sys.argv[1:]), unit="share")
