"""How many sequences a rank handles at once, where that is to be found: tried on a network that is dropped afterwards.

On a GPU as many as fit, with a margin; on a CPU, where memory rarely ends before speed does, as many as compute fastest
and fit by what was measured of fewer. A run begins on a network of its own, so that trying leaves no trace in it.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning
import torch

from groundup.core import ranks
from groundup.core.config import to_dict
from groundup.core.errors import ConfigError
from groundup.core.files import atomic_json, read_json
from groundup.core.memory import share_of_memory
from groundup.data.config import AUTO
from groundup.data.step import Step
from groundup.objective.base import Objective
from groundup.strategy.agreement import gathered
from groundup.trainer.console import say
from groundup.trainer.device import described, device_of
from groundup.trainer.sizes import MARGIN, Search, Tried, fastest, most

FILE = "micro_batch.json"
"""In the run's folder: what was found, where, and why; the one in use is the last."""

WHY = {True: f"the most that fit with {MARGIN:.0%} of the memory to spare", False: "the fastest of those tried"}
"""What is told of a number that was found, on a GPU or not."""

T = TypeVar("T")


class Trial(lightning.Callback):
    """Tries sizes on a network that has just begun, until the search is over or memory ran out, which spoils it.

    Args:
        search: what to try.
        step: makes a step in micro-batches of a size.
        copies: how many times all weights are kept besides.

    Attributes:
        over: whether the search is.
        rows: what it found.
    """

    def __init__(self, search: Search, step: Callable[[int], Step], copies: int) -> None:
        self._search, self._step, self._copies = search, step, copies
        self._next = next(search)
        self.over, self.rows = False, cast("int | None", None)

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Nets stand where they train, and the optimizer is made."""
        objective = cast(Objective, module)
        weights = list(objective.nets.parameters())
        kept = [weight.detach().float().clone() for _ in range(self._copies) for weight in weights]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0
        fits = True
        while fits and not self.over:
            tried = self._try(objective, self._next)
            fits = tried is not None
            try:
                self._next = self._search.send(tried)
            except StopIteration as end:
                self.over, self.rows = True, end.value
        del kept

    def _try(self, module: Objective, rows: int) -> Tried | None:
        """What a size takes, told by all ranks; None where memory ran out on one of them."""
        strategy: Any = module.trainer.strategy
        step = self._step(rows)
        step = dataclasses.replace(step, micro_batches=step.micro_batches[:2], micro_numbers=step.micro_numbers[:2])
        step = strategy.batch_to_device(step, module.device)
        _forget(module.setting.compile)
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)
        if strategy.apart and ranks.world() > 1:  # first without the others, who would wait for one that fails
            with strategy.quiet():
                alone = _survived(lambda: bool(module.gradients(step)))
            module.zero_grad(set_to_none=True)
            if None in gathered(alone):
                return None
        told = gathered((_survived(lambda: _seconds(module, step)), _share(module.device)))
        taken = [seconds for seconds, _ in told if seconds is not None]
        if len(taken) < len(told):
            return None
        return Tried(rows, max(taken) / rows / len(step.micro_batches), max(share for _, share in told))


def _seconds(module: Objective, step: Step) -> float:
    """The time of gradients, behind a step that gave the optimizer its state."""
    optimizer = cast(torch.optim.Optimizer, module.optimizers(use_pl_optimizer=False))
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        module.gradients(step)
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        times.append(time.perf_counter() - begun)
        cast(Any, module.trainer.strategy).gradient_norm(module.trainable())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return min(times[1:])


def _survived(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except torch.OutOfMemoryError:
        return None


def _share(device: torch.device) -> float:
    """Of the memory that this process could have, what it had at most."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.max_memory_reserved(device) / (free + torch.cuda.memory_reserved(device))
    return share_of_memory(ranks.local_world()) if device.type == "cpu" else 0.0


def _forget(compiled: bool) -> None:
    """Give memory back, and what was compiled, lest its sizes become variables where another is computed."""
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Found:
    """What was found for a run, in its folder: layouts and devices that were tried are not tried again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._kept: list[dict[str, Any]] = list(read_json(self._path)) if self._path.is_file() else []

    @property
    def last(self) -> dict[str, Any] | None:
        """What was used last: `rows` and `why`, among others."""
        return self._kept[-1] if self._kept else None

    def used(self, data: Any) -> Any:
        """A data's config with the number in the place of `auto`; one where none was found."""
        if data.micro_batch != AUTO:
            return data
        return dataclasses.replace(data, micro_batch=self._kept[-1]["rows"] if self._kept else 1)

    def settle(
        self,
        recipe: Any,
        ways: int,
        begin: Callable[[Trial], None],
        step: Callable[[int], Step],
    ) -> int:
        """The number of sequences at once that suits this layout and these devices; ranks that have met call together.

        Args:
            recipe: the run's config while this batch is in force.
            ways: ranks that read different samples; what is found divides the part of each.
            begin: trains a network of its own, not a step, with a callback.
            step: makes a step in micro-batches of a size.

        Raises:
            ConfigError: not even one fits.
        """
        accelerator, precision = device_of(recipe.trainer)
        copies = sum(getattr(callback, "copies", 0) for callback in recipe.callback.values())
        each = -(-recipe.data.samples // ways)
        threads = recipe.trainer.threads or torch.get_num_threads()
        mine = [described(accelerator), threads if accelerator == "cpu" else None]
        place = {
            "strategy": to_dict(recipe.strategy),
            "devices": gathered(mine),
            "precision": precision,
            "compile": recipe.trainer.compile,
            "copies": copies,
            "each": each,
        }
        known = next((entry for entry in self._kept if entry["place"] == place), None)
        told = gathered(None if known is None else known["rows"])
        if known is None or told != [known["rows"]] * len(told):  # a rank may see the folder as it was
            gpu = accelerator == "cuda"
            sizes = [size for size in range(1, each + 1) if each % size == 0]
            rows = _searched(Trial((most if gpu else fastest)(sizes), step, copies), begin, recipe.trainer.compile)
            known = {"place": place, "rows": rows, "why": WHY[gpu]}
        self._kept = [*(entry for entry in self._kept if entry["place"] != place), known]
        if ranks.rank() == 0:
            atomic_json(self._path, self._kept)
        say(f"micro-batch: {known['rows']} of the {each} sequences of a step on each rank, {known['why']}")
        return int(known["rows"])


def _searched(trial: Trial, begin: Callable[[Trial], None], compiled: bool) -> int:
    """What a trial finds on as many networks as it takes; generators are as before.

    Raises:
        ConfigError: nothing fits.
    """
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        while not trial.over:
            begin(trial)
            _forget(compiled)
    if trial.rows is None:
        raise ConfigError(
            f"data.micro_batch={AUTO}",
            "does not find memory for a single sequence",
            "spread the network (strategy=fsdp), set strategy.recompute=full, or lower data.context",
        )
    return trial.rows
