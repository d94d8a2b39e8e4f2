"""Saving a run to `step-N/` directories and bringing it back, bitwise; when to train on is not decided here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import lightning

from groundup.callback import config, restored
from groundup.callback import tensors as files
from groundup.callback.contents import Room, held
from groundup.callback.mirror import Mirror
from groundup.callback.stopping import Agreement, Requests, StoppedError
from groundup.callback.throughput import paused
from groundup.callback.watched import callbacks
from groundup.callback.writing import HASHES, STATE, Request, Writer
from groundup.core import checkpoint
from groundup.core.bits import sought
from groundup.core.config import to_dict
from groundup.core.errors import CheckpointError, StorageError
from groundup.core.files import read_json
from groundup.core.progress import Progress
from groundup.objective.base import Objective


@runtime_checkable
class Holds(Protocol):
    """A callback that may want to go back."""

    def holds(self, steps: Sequence[int]) -> set[int]:
        """Which of the checkpoints of these steps must stay."""


@runtime_checkable
class Waits(Protocol):
    """A strategy whose steps are made elsewhere, and may never come."""

    asked: Callable[[], bool]
    """Whether it is to wait for no more of them."""


class Checkpoint(lightning.Callback):
    """Saves every so many steps, at the end of a segment and when asked to stop; restores before the first step.

    Attributes:
        scores: held-out bits per byte by step, as far as there were validations.
        writer: writes them, from the start of a fit to its end.
    """

    def __init__(self, options: config.Checkpoint) -> None:
        self.options = options
        self.scores: dict[int, float] = {}
        self.source: Path | None = None
        self.validate_every: int | None = None
        self.segment: Callable[[Progress], str] = str
        self.writer: Writer | None = None
        self._requests = Requests()
        self._agreement: Agreement | None = None
        self._saved: int | None = None
        self._stop = False

    def place(self, source: Path | None, validate_every: int | None, segment: Callable[[Progress], str]) -> None:
        """Say where in the run this stands.

        Args:
            source: a verified checkpoint to restore, or None to start from the beginning.
            validate_every: optimizer steps between validations; a checkpoint due at one is saved after it.
            segment: called with the clock, gives the hash of the segments that led to it.
        """
        self.source, self.validate_every, self.segment = source, validate_every, segment

    # Lightning's hooks

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore nets, optimizer, clock and callbacks from `source`."""
        alone = trainer.world_size == 1
        self.writer = Writer(asynchronous=self.options.asynchronous, alone=alone)
        self._agreement = Agreement(2, alone=alone)
        if self.source is not None:
            self._restore(trainer, cast(Objective, module), self.source)
        self._requests.listen()
        if isinstance(trainer.strategy, Waits):
            trainer.strategy.asked = self._asked

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step count says so, unless a validation comes first; stop where that was asked for."""
        del outputs, batch, batch_idx
        objective = cast(Objective, module)
        assert self._agreement is not None and self.writer is not None
        stop, failed = self._agreement.after_step(self._asked(), self.writer.failed)
        self._stop = self._stop or stop
        if failed:
            self.writer.wait()
        if objective.abandoned:
            return
        steps = objective.progress.steps
        validated = self.validate_every is not None and steps % self.validate_every == 0
        if self._due(steps) and not validated:
            self.save(trainer, objective)
        if self._stop and not validated and steps < objective.total.steps:
            self._leave(trainer, objective)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Note the score, and save if this step is due."""
        objective = cast(Objective, module)
        if trainer.state.fn != "fit":
            return
        self.scores[objective.progress.steps] = sought(objective.validation)
        if self._due(objective.progress.steps):
            self.save(trainer, objective)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Save the end of the segment, and wait for all that is being written."""
        objective = cast(Objective, module)
        assert self._agreement is not None and self.writer is not None
        stop = self._agreement.finish()[0] or self._stop or (trainer.world_size == 1 and self._asked())
        if not objective.abandoned and self._saved != objective.progress.steps:
            self.save(trainer, objective)
        self.writer.wait()
        if stop and objective.progress.steps < objective.total.steps and not objective.abandoned:
            self._leave(trainer, objective)
        self.writer.close()
        self._requests.close()
        self._requests.again()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """What was saved before is still written to its end; of what fails now, that which ended the run is told."""
        del trainer, module, exception
        self._requests.close()
        if self.writer is not None:
            with suppress(Exception):
                self.writer.wait()

    def _asked(self) -> bool:
        return self._requests.heard is not None

    # Saving

    def _due(self, steps: int) -> bool:
        return self.options.every is not None and steps % self.options.every == 0

    def save(self, trainer: lightning.Trainer, module: Objective) -> None:
        """Save one checkpoint, whole or not at all; all ranks call this together.

        Where saving is asynchronous, it is copied when this returns, and written later.

        Raises:
            StorageError: the disk refused, this one or the one before; older checkpoints are untouched.
        """
        assert self.writer is not None
        with paused(trainer):
            self.writer.wait()
            for logger in trainer.loggers:
                logger.save()  # rows up to this step are on disk before the checkpoint that vouches for them
            step, folder = module.progress.steps, module.folder
            retire = self._retirement(trainer, folder, step) if trainer.is_global_zero else lambda: None
            self.writer.save(Request(folder, step, held(trainer, module), self._state(trainer, module), retire))
            self._saved = step

    def _state(self, trainer: lightning.Trainer, module: Objective) -> dict[str, Any]:
        return {
            "progress": vars(module.progress).copy(),
            "segments": self.segment(module.progress),
            "nets": {name: to_dict(config) for name, config in module.net_configs.items()},
            "scores": {str(key): value for key, value in self.scores.items()},
            **_rates(trainer, module),
        }

    def _retirement(self, trainer: lightning.Trainer, folder: Path, step: int) -> Callable[[], None]:
        """What is to be done once the checkpoint of a step is complete, as is decided now."""
        steps = {*(checkpoint.step_of(path) for path in checkpoint.listed(folder)), step}
        held_back, scores, options = _held_back(trainer, sorted(steps)), dict(self.scores), self.options
        mirror = None if options.mirror is None else Mirror(options.mirror, folder)

        def outdated(steps: Collection[int]) -> list[int]:
            keep = _kept(steps, scores, options) | held_back
            return checkpoint.outdated(steps, step, options.keep_latest, keep)

        def retire() -> None:
            checkpoint.prune(folder, outdated)
            if mirror is not None:
                try:
                    mirror.put(step, outdated)
                except StorageError as error:  # the run folder has it; the next one is tried again
                    print(f"step {step} is not copied: {error}", flush=True)

        return retire

    def _leave(self, trainer: lightning.Trainer, module: Objective) -> None:
        """Save, and end all ranks.

        Raises:
            StoppedError: always.
        """
        assert self.writer is not None
        if self._saved != module.progress.steps:
            self.save(trainer, module)
        self.writer.wait()
        with suppress(SystemExit):
            self._requests.pass_on()
        trainer.strategy.barrier()  # who wants the signal on rank 0 is done before any rank ends
        step = module.progress.steps
        raise StoppedError(
            "the run", f"was asked to stop, and has saved step {step}", "the same command goes on from there"
        )

    # Restoring

    def _restore(self, trainer: lightning.Trainer, module: Objective, folder: Path) -> None:
        values = read_json(folder / STATE)
        progress = Progress(**values["progress"])
        if progress != module.progress:
            raise CheckpointError(str(folder), f"stands at {progress}, not {module.progress}", "start with fresh=true")
        self.scores = {int(key): float(value) for key, value in values["scores"].items()}
        described = files.Saved(folder).kinds
        saved = read_json(folder / HASHES) if (folder / HASHES).exists() else {}
        room = Room(trainer, module, described, str(folder))
        files.read_into(room.tensors, folder, alone=trainer.world_size == 1)
        restored.check(room.tensors, saved, str(folder))
        room.take()
        self._saved = progress.steps
        if trainer.is_global_zero:
            lines = restored.table(values, described, saved, _rates(trainer, module), str(folder))
            print(*lines, sep="\n", flush=True)


def _rates(trainer: lightning.Trainer, module: Objective) -> dict[str, Any]:
    """The options of optimizer and schedule: told when a run goes on, and never read back, as the config has them."""
    factor = module.schedule.factor(module.progress, module.total)
    return {
        "optimizer": restored.settings(trainer.optimizers[0]),
        "schedule": {"kind": str(module.schedule.kind), "factor": factor},
    }


def _kept(steps: Collection[int], scores: Mapping[int, float], options: config.Checkpoint) -> set[int]:
    """The best of some checkpoints, and those that stay for good."""
    scored = [(score, step) for step, score in scores.items() if step in steps]
    best = {min(scored)[1]} if options.keep_best and scored else set()
    every = options.keep_every
    return best | {step for step in steps if every is not None and step % every == 0}


def _held_back(trainer: lightning.Trainer, steps: Sequence[int]) -> set[int]:
    """The checkpoints that other callbacks may want to go back to."""
    holders = [callback for callback in callbacks(trainer) if isinstance(callback, Holds)]
    return {step for holder in holders for step in holder.holds(steps)}
