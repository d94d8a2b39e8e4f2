"""The loop over a run's segments: effective config -> build Trainer -> fit -> next segment, in one process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import lightning
import torch
from lightning.pytorch.profilers import PyTorchProfiler

from groundup.callback import config as callback_config
from groundup.callback import decisions
from groundup.callback.checkpoint import Checkpoint
from groundup.callback.decisions import Decision
from groundup.callback.heartbeat import Heartbeat
from groundup.callback.recovery import Recovery
from groundup.callback.watched import callbacks as callbacks_of
from groundup.core import checkpoint, ranks
from groundup.core.config import from_dict, to_dict
from groundup.core.errors import CheckpointError
from groundup.core.files import read_json
from groundup.core.progress import Progress
from groundup.data.config import AUTO
from groundup.data.module import StepModule
from groundup.data.opening import storage_of, tokenizer_folder
from groundup.data.view import View, view_of
from groundup.objective.base import Objective, Setting
from groundup.optimizer.group import ROLES, carries
from groundup.shard.manifest import Manifest
from groundup.tokenizer.load import load as load_tokenizer
from groundup.trainer import logger_config, rollback
from groundup.trainer import segments as segment_list
from groundup.trainer.agreement import Agreement
from groundup.trainer.changes import apply
from groundup.trainer.console import quiet, say
from groundup.trainer.course import Course, mixes
from groundup.trainer.device import device_of
from groundup.trainer.export import export, export_head
from groundup.trainer.live import FILE, Live
from groundup.trainer.lock import only_one
from groundup.trainer.micro_batch import Found, Trial
from groundup.trainer.segments import Segment

_AT_THE_END = from_dict("callback", {"kind": "checkpoint", "every": None})


class Recipe(Protocol):
    """What the loop reads of the train verb's config."""

    name: str
    seed: int
    model: Any
    data: Any
    objective: Any
    optimizer: Any
    schedule: Any
    strategy: Any
    trainer: Any
    callback: dict[str, Any]
    logger: dict[str, Any]
    stop_steps: int | None

    def course(self) -> Course: ...

    def check_segments(self, segments: Sequence[Segment]) -> None: ...


@dataclasses.dataclass
class Outcome:
    """What a call of `train` did.

    Attributes:
        progress: the clock where it stopped.
        held_out: bits per byte by source at the end, or measures on examples; empty if it stopped early.
        seconds: wall-clock time of the fits, compilation included.
    """

    progress: Progress
    held_out: dict[str, float]
    seconds: float


def train(recipe: Recipe, folder: Path, segments: Sequence[Segment], source: Path | None) -> Outcome:
    """Train from a checkpoint (or the beginning) to the end of the last segment.

    Args:
        recipe: the run's first config.
        folder: the run folder, which exists and holds `segments.jsonl`.
        segments: the plan.
        source: a verified checkpoint, or None.

    Raises:
        CheckpointError: `source` belongs to another model or another list of segments.
        UserError: a callback saw that the run cannot go on, and what was tried.
    """
    quiet()
    leads = recipe.strategy.leads(ranks.rank())
    source = source if leads else None
    clock = clock_of(source, segments)
    begun = time.monotonic()
    with only_one(folder):
        found, live = Found(folder), _live(recipe, folder)
        if ranks.rank() == 0:
            rollback.set_aside(folder, segments, decisions.read(folder))
        while (number := segment_list.at(segments, clock)) < len(segments):
            segment = segments[number]
            last = segment.last.steps if recipe.stop_steps is None else min(segment.last.steps, recipe.stop_steps)
            if last <= clock.steps:
                break
            say(f"segment {number + 1} of {len(segments)} ({segment.reason}): steps {clock.steps} to {last}")
            effective = apply(recipe, segment.set)
            effective.data = _settled(effective, recipe, folder, clock, found)
            module, trainer, data = _build(recipe, effective, folder, segments, number, clock, last, source, live)
            if recipe.trainer.validate_first and not clock.steps and leads:
                first = build_trainer(recipe, _agreed(recipe, clock), list(trainer.loggers), folder, held_out=True)
                first.validate(module, datamodule=data, verbose=False)
            trainer.fit(module, datamodule=data)
            if module.abandoned:
                segments, source = _go_back(recipe, folder, segments, trainer)
                clock = clock_of(source, segments)
                continue
            clock, source = module.progress, checkpoint.path_of(folder, module.progress.steps)
            if any(watcher.decided for watcher in live):
                segments = _follow(recipe, folder, trainer)
            elif clock.steps < last:  # a callback saw reason to stop
                break
        seconds = time.monotonic() - begun
        if not leads or number < len(segments):
            return Outcome(clock, {}, seconds)
        return Outcome(clock, _finish(recipe, folder, segments, clock, source, found), seconds)


def _go_back(
    recipe: Recipe, folder: Path, segments: Sequence[Segment], trainer: lightning.Trainer
) -> tuple[Sequence[Segment], Path | None]:
    """Write down what a callback decided, and only then act on it; all ranks read what rank 0 wrote.

    Raises:
        UserError: it decided to stop.
    """
    (recovery,) = (callback for callback in callbacks_of(trainer) if isinstance(callback, Recovery))
    assert recovery.verdict is not None
    if ranks.rank() == 0:
        rollback.decide(recipe, folder, segments, recovery.verdict, recovery.step, recovery.evidence)
    trainer.strategy.barrier()
    made = decisions.read(folder)
    if not made[-1].goes_back:
        raise rollback.ended(made[-1])
    segments = recipe.course().segments(made)
    if ranks.rank() == 0:
        rollback.set_aside(folder, segments, made)
        segment_list.write(folder, to_dict(recipe), segments)
    say(rollback.told(made[-1]))
    trainer.strategy.barrier()
    return segments, None if made[-1].checkpoint is None else folder / checkpoint.FOLDER / made[-1].checkpoint


def _live(recipe: Recipe, folder: Path) -> list[Live]:
    """Who looks for changes in the run folder, where all ranks can act on them at one step."""
    if not getattr(recipe.strategy, "steerable", True):
        if (folder / FILE).exists():
            say(f"{folder / FILE}: is not looked at with strategy={recipe.strategy.kind}; plan changes=[...] instead")
        return []

    def check(decision: Decision) -> None:
        assert decision.clock is not None
        segments = recipe.course().segments([*decisions.read(folder), decision])
        recipe.check_segments([segment for segment in segments if segment.last.steps > decision.clock.steps])

    return [Live(check)]


def _follow(recipe: Recipe, folder: Path, trainer: lightning.Trainer) -> Sequence[Segment]:
    """The segments after a change that rank 0 wrote down; all ranks read it."""
    trainer.strategy.barrier()
    made = decisions.read(folder)
    segments = recipe.course().segments(made)
    if ranks.rank() == 0:
        segment_list.write(folder, to_dict(recipe), segments)
    say(f"step {made[-1].step}: {made[-1].why}")
    return segments


def clock_of(source: Path | None, segments: Sequence[Segment]) -> Progress:
    """The clock of a checkpoint, once it is known to lie on this list of segments.

    Raises:
        CheckpointError: it was reached by other segments.
    """
    if source is None:
        return Progress()
    values = read_json(source / "state.json")
    clock = Progress(**values["progress"])
    if values["segments"] != segment_list.digest(segments, clock):
        what = "was reached by another plan of changes than this run's"
        raise CheckpointError(str(source), what, "give the changes it was trained with, or start over with fresh=true")
    return clock


def _era_end(segments: Sequence[Segment], number: int) -> Progress:
    """The clock reading at which the run was to end, as planned while this segment runs."""
    tokens = segments[number].set.get("tokens")
    return [segment for segment in segments if segment.set.get("tokens") == tokens][-1].last


def _taken_over(recipe: Recipe, segments: Sequence[Segment], number: int, clock: Progress) -> Any:
    """The optimizer's config before a seam where it is of another kind behind it, else None; it is told of."""
    if not number or clock != segments[number].first:
        return None
    before, after = (apply(recipe, segments[each].set).optimizer for each in (number - 1, number))
    if before.kind == after.kind:
        return None
    kept = [role for role in ROLES if carries(before, after, role)]
    what = f"what {before.kind} knows of {', '.join(kept)} parameters is taken over" if kept else "it begins anew"
    say(f"optimizer={after.kind} in the place of {before.kind}: {what}{', all else begins anew' if kept else ''}")
    return before


def _setting(recipe: Recipe, folder: Path, first: Progress, total: Progress) -> Setting:
    storage = storage_of(recipe.data)
    return Setting(
        seed=recipe.seed,
        first=first,
        total=total,
        folder=folder,
        tokenizer=load_tokenizer(tokenizer_folder(storage)),
        sources=recipe.data.held_out_sources(Manifest.read(storage)),
        precision=device_of(recipe.trainer)[1],
        compile=recipe.trainer.compile,
        log_every=recipe.trainer.log_every,
    )


def _view(effective: Recipe, setting: Setting) -> View | None:
    assert setting.tokenizer is not None
    return view_of(effective.objective, effective.seed, setting.tokenizer, effective.model)


def _settled(effective: Recipe, recipe: Recipe, folder: Path, clock: Progress, found: Found) -> Any:
    """The data's config with, for `auto`, the micro-batch that is known to suit this place, or is found by trying."""
    if effective.data.micro_batch != AUTO:
        return effective.data
    share = recipe.strategy.share(ranks.world(), ranks.rank())
    setting = _setting(effective, folder, clock, clock)
    view = _view(effective, setting)
    place = SimpleNamespace(strategy=effective.strategy, trainer=dataclasses.replace(effective.trainer, profile=False))

    def data(rows: int) -> StepModule:
        config = dataclasses.replace(effective.data, micro_batch=rows)
        return cast(StepModule, config.build(effective.seed, clock, 1, *share, view))

    def begin(trial: Trial) -> None:
        module = effective.objective.build(effective.model, effective.optimizer, effective.schedule, setting)
        trainer = build_trainer(place, [trial], [], folder, held_out=False)
        trainer.limit_train_batches = 0
        trainer.fit(module, datamodule=data(1))

    for agreement in _agreed(recipe, clock):
        build_trainer(place, [], [], folder, held_out=False).strategy.setup_environment()
        agreement.agree()
    rows = found.settle(effective, share[1], begin, lambda size: data(size).train_dataloader()[0])
    return dataclasses.replace(effective.data, micro_batch=rows)


def _build(
    recipe: Recipe,
    effective: Recipe,
    folder: Path,
    segments: Sequence[Segment],
    number: int,
    clock: Progress,
    last: int,
    source: Path | None,
    live: Sequence[Live],
) -> tuple[Objective, lightning.Trainer, StepModule]:
    setting = _setting(effective, folder, clock, _era_end(segments, number))
    setting.before = _taken_over(recipe, segments, number, clock)
    module = effective.objective.build(effective.model, effective.optimizer, effective.schedule, setting)
    view = _view(effective, setting)
    share = recipe.strategy.share(ranks.world(), ranks.rank())
    mixed = {"mixes": mixes(recipe, segments[: number + 1])} if hasattr(effective.data, "ease_tokens") else {}
    data = effective.data.build(effective.seed, clock, last - clock.steps, *share, view, **mixed)
    if not recipe.strategy.leads(ranks.rank()):
        return module, build_trainer(recipe, _agreed(recipe, clock), [], folder, held_out=False), data
    callbacks = [*_agreed(recipe, clock), *live, *callback_config.build({"checkpoint": _AT_THE_END, **recipe.callback})]
    for callback in callbacks:
        if isinstance(callback, Checkpoint):
            callback.place(
                source, recipe.trainer.validate_every, lambda reading: segment_list.digest(segments, reading)
            )
        if isinstance(callback, Recovery):
            changes = [segment.first.steps for segment in segments if segment.planned and segment.first.steps]
            callback.place(changes, effective.data.skips)
    loggers = logger_config.build(recipe.logger, folder, recipe.name, clock)
    trainer = build_trainer(recipe, callbacks, loggers, folder, held_out=recipe.trainer.validate_every is not None)
    trainer.fit_loop.epoch_loop.batch_progress.total.ready = clock.steps  # so that validation falls on the same steps
    return module, trainer, data


def _agreed(recipe: Recipe, clock: Progress) -> list[Agreement]:
    """What sees to it that several ranks mean the same."""
    if ranks.world() == 1:
        return []
    return [Agreement(recipe, Manifest.read(storage_of(recipe.data)).digest, clock)]


class Place(Protocol):
    """Where and how something is computed."""

    strategy: Any
    trainer: Any


def build_trainer(
    recipe: Place, callbacks: Sequence[lightning.Callback], loggers: list[Any], folder: Path, held_out: bool
) -> lightning.Trainer:
    """Lightning's Trainer as a config asks for it.

    Args:
        recipe: a verb's config.
        callbacks: in their order.
        loggers: where metrics go.
        folder: for traces.
        held_out: whether held-out text is looked at.
    """
    options = recipe.trainer
    accelerator, _ = device_of(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    # Else compiled code adds gradients of embeddings up as its threads come to it.
    same_bits = accelerator == "cpu" if options.deterministic is None else options.deterministic
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # theirs
    devices = ranks.local_world()
    profiler = PyTorchProfiler(dirpath=folder / "profile", filename="trace") if options.profile else None
    trainer = lightning.Trainer(
        accelerator="gpu" if accelerator == "cuda" else accelerator,
        strategy=recipe.strategy.build(accelerator, devices),
        devices=devices,
        num_nodes=max(1, ranks.world() // devices),
        max_epochs=1,
        logger=loggers,
        callbacks=[Heartbeat(), *callbacks],
        val_check_interval=options.validate_every,
        check_val_every_n_epoch=None,
        limit_val_batches=None if held_out else 0,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        deterministic="warn" if same_bits else False,  # what cannot be told to is warned of
        profiler=profiler,
    )
    # Signals are the checkpoint callback's: Lightning would answer SIGTERM with a collective, wherever the ranks are.
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    return trainer


def _finish(
    recipe: Recipe, folder: Path, segments: Sequence[Segment], clock: Progress, source: Path | None, found: Found
) -> dict[str, float]:
    """Make the run folder a model folder, and measure the weights it will be loaded with."""
    if source is None:
        raise CheckpointError(str(folder), "holds no checkpoint of the run's end", "run the same command again")
    effective = apply(recipe, segments[-1].set)
    effective.data = found.used(effective.data)
    if ranks.rank() == 0:
        export(source, effective.model, tokenizer_folder(storage_of(recipe.data)), folder)
        if hasattr(effective.objective, "head"):
            export_head(source, effective.objective.head(effective.model), folder)
    setting = _setting(effective, folder, clock, segments[-1].last)
    module = effective.objective.build(effective.model, effective.optimizer, effective.schedule, setting)
    trainer = build_trainer(recipe, [], [], folder, held_out=True)
    trainer.strategy.barrier()
    module.take(folder)
    view = _view(effective, setting)
    data = effective.data.build(effective.seed, clock, 0, *recipe.strategy.share(ranks.world(), ranks.rank()), view)
    trainer.validate(module, datamodule=data, verbose=False)
    held_out: dict[str, float] = module.validation
    return held_out
