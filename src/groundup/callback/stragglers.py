"""Which ranks compute slower than the others; it knows when a rank computes and when it waits, and not what for.

A collective ends for all ranks when the last has come, so the time of a step is the same everywhere. What differs is
the time from the end of one step to the point where a rank has its gradients and only waits: input, forward and
backward passes. Its median over some steps says nothing of a pause here and there, for a checkpoint or a sample.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from typing_extensions import override

from groundup.callback import config
from groundup.callback.meter import Mark, clock
from groundup.callback.watched import log, watched
from groundup.core.ranks import described, node
from groundup.launcher import record
from groundup.strategy.stepping import Stepping


class Stragglers(Callback):
    """Compares ranks every so many steps, in an exchange of one number each that nobody waits for.

    Logs `speed/slowest_rank`, how many times the median rank's time the slowest takes, and prints a line that names the
    ranks above `factor` and their hosts; `launches.jsonl` among the run's logs keeps it. Alone, or under a strategy
    that does not tell when a rank waits, it does nothing. Collectives within a forward pass count as computing: there
    the slowest of those that share a layer sets the pace of all.
    """

    def __init__(self, options: config.Stragglers) -> None:
        self.every = options.every
        self.factor = options.factor
        self._now: Callable[[], Mark] | None = None
        self._begin: Mark | None = None
        self._computed: Mark | None = None
        self._steps: deque[tuple[Mark, Mark]] = deque(maxlen=options.every)
        self._hosts: dict[int, str] = {}
        self._logs = Path()
        self._pending: tuple[int, Any, list[Tensor]] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn where the ranks are, and ask the strategy to tell when this one waits."""
        self._now, self._begin, self._pending = None, None, None
        self._steps.clear()
        strategy = trainer.strategy
        if trainer.world_size == 1 or not isinstance(strategy, Stepping) or not distributed.is_initialized():
            return
        self._logs = watched(pl_module).folder / "logs"
        names: list[str] = [""] * trainer.world_size
        distributed.all_gather_object(names, node())
        self._hosts = dict(enumerate(names))
        self._now = clock(pl_module.device)
        strategy.on_computed = self._note

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step's collectives are done, so all ranks are here at once: the next begins."""
        if self._now is None:
            return
        if self._begin is not None and self._computed is not None:
            self._steps.append((self._begin, self._computed))
        self._begin, self._computed = self._now(), None
        step = watched(pl_module).progress.steps
        if self._pending is not None and (step % self.every == 0 or self._pending[1].is_completed()):
            self._report(trainer)
        if step % self.every == 0:
            self._ask(step)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell what was still on its way."""
        if self._pending is not None:
            self._report(trainer)

    def _note(self) -> None:
        assert self._now is not None
        self._computed = self._now()

    def _ask(self, step: int) -> None:
        """Begin to exchange the median time of the last steps."""
        done = [end.since(begin) for begin, end in self._steps if end.reached()]
        mine = torch.tensor([statistics.median(done) if done else float("nan")], dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in self._hosts]
        self._pending = (step, distributed.all_gather(found, mine, async_op=True), found)

    def _report(self, trainer: Trainer) -> None:
        assert self._pending is not None
        step, work, found = self._pending
        self._pending = None
        cast(Any, work).wait()
        seconds = [float(value) for value in found]
        slow, ratio = slowest(seconds, self.factor)
        if ratio is None or not trainer.is_global_zero:
            return
        log(trainer, {"speed/slowest_rank": ratio}, step)
        if slow:
            why = describe(seconds, slow, self._hosts)
            print(f"step {step}  {why}", flush=True)
            nodes = sorted({self._hosts[rank] for rank in slow})
            record.note(self._logs, "slow", step=step, ranks=slow, nodes=nodes, why=why)


def slowest(seconds: Sequence[float], factor: float) -> tuple[list[int], float | None]:
    """The ranks that take above `factor` times what the median rank takes, and what the slowest takes of it.

    With an even number of ranks the faster of the middle two is the median. Without the time of some rank: none, None.
    """
    if any(value != value for value in seconds):
        return [], None
    median = statistics.median_low(seconds)
    slow = [rank for rank, value in enumerate(seconds) if value > factor * median]
    return slow, max(seconds) / median if median > 0 else None


def describe(seconds: Sequence[float], slow: Sequence[int], hosts: Mapping[int, str]) -> str:
    """A phrase about slow ranks."""
    most, median = max(seconds[rank] for rank in slow), statistics.median_low(seconds)
    verb = "computes" if len(slow) == 1 else "compute"
    return (
        f"{described(slow, hosts)} {verb} up to {most / median:.2f} times as long as the median rank "
        f"({most:.3g} s and {median:.3g} s a step), and all wait for it"
    )
