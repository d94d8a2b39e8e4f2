"""How a run goes back: to which checkpoint, past which samples, and what is set aside of the attempt it gives up.

When to go back is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from groundup.callback import decisions, history
from groundup.callback.config import SIGNALS
from groundup.callback.decisions import Decision
from groundup.callback.policy import ROLL_BACK, Verdict
from groundup.core import checkpoint
from groundup.core.errors import CheckpointError, DataError, UserError
from groundup.core.files import atomic_write, make_folder, read_json, storage_error
from groundup.core.progress import Progress
from groundup.shard.skip import Skips
from groundup.trainer import segments as segment_list
from groundup.trainer.changes import apply
from groundup.trainer.console import say
from groundup.trainer.segments import Segment

ATTEMPTS = "attempts"


def lies_on(segments: Sequence[Segment], path: Path) -> bool:
    """Whether a checkpoint was reached by these segments, and not by an attempt that was given up."""
    try:
        values = read_json(path / "state.json")
        return bool(values["segments"] == segment_list.digest(segments, Progress(**values["progress"])))
    except (DataError, KeyError, TypeError):
        # another rank may just set it aside; what is damaged is told of where it is verified
        return path.exists()


def decide(
    config: Any, folder: Path, segments: Sequence[Segment], verdict: Verdict, step: int, evidence: dict[str, Any]
) -> None:
    """Write down what a verdict comes to here: the checkpoint, and the samples that are passed over.

    Args:
        config: the run's first config.
        folder: of the run.
        segments: of the run so far.
        verdict: to go back or to stop.
        step: at which it was given, counted from 1.
        evidence: for it.
    """
    attempt = decisions.attempts(decisions.read(folder)) + 1
    made = Decision(attempt, step, verdict.action, verdict.why, evidence)
    if verdict.action == ROLL_BACK:
        chosen = source(folder, segments, verdict, step)
        clock = Progress() if chosen is None else Progress(**read_json(chosen / "state.json")["progress"])
        made = replace(
            made,
            clock=clock,
            checkpoint=None if chosen is None else chosen.name,
            skip=_skipped(config, segments, max(verdict.before, clock.steps), verdict.skip_until),
            rate=verdict.rate,
            embedding=verdict.embedding,
        )
    decisions.record(folder, made)


def source(folder: Path, segments: Sequence[Segment], verdict: Verdict, step: int) -> Path | None:
    """The newest good checkpoint as far back as wanted; else the oldest before the first sign; else the beginning.

    The beginning is taken only where it is no more than twice as far back as wanted. Else what is left is the oldest
    checkpoint, which may be spoilt: if it is, the next measure follows, and nothing of a long run is lost to it.
    """
    mine = [path for path in checkpoint.listed(folder) if lies_on(segments, path)]
    before = [path for path in mine if checkpoint.step_of(path) <= verdict.before]
    after = [path for path in mine if verdict.before < checkpoint.step_of(path) < verdict.first]
    late = [path for path in mine if checkpoint.step_of(path) >= verdict.first] if 2 * verdict.before > step else []
    for path in [*reversed(before), *after, *late]:
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            say(f"{error.where}: {error.what}; going back to another")
        else:
            return path
    return None


def _skipped(config: Any, segments: Sequence[Segment], first: int, until: int | None) -> list[int] | None:
    """The stretch of the order that the steps after clock readings `first` to `until` are made of; None: none."""
    if until is None or until <= first:
        return None
    number = min(segment_list.at(segments, Progress(first)), len(segments) - 1)
    skips = Skips(apply(config, segments[number].set).data.skips)
    ends = np.array([_samples(segments, first), _samples(segments, until) - 1])
    begin, last = skips.index(ends).tolist()
    return [begin, last + 1]


def _samples(segments: Sequence[Segment], steps: int) -> int:
    """Samples served after so many steps; beyond the end as many a step as before it."""
    segment = segments[min(segment_list.at(segments, Progress(steps)), len(segments) - 1)]
    each = (segment.last.samples - segment.first.samples) // segment.steps
    return segment.first.samples + (steps - segment.first.steps) * each


def set_aside(folder: Path, segments: Sequence[Segment], made: Sequence[Decision]) -> None:
    """Keep what the last attempt that was given up has left where nobody goes on from it.

    It may be done again after a kill in its midst: its parts are there or not.

    Raises:
        StorageError: the disk refused.
    """
    back = next((decision for decision in reversed(made) if decision.goes_back), None)
    if back is None or back.clock is None:
        return
    place = make_folder(folder / ATTEMPTS / str(back.attempt))
    for name in (history.METRICS, SIGNALS):
        if not (place / name).exists():  # else the file is the next attempt's by now
            atomic_write(place / name, history.since(folder / name, back.clock.steps))
    for path in checkpoint.listed(folder):
        if checkpoint.step_of(path) > back.clock.steps and not lies_on(segments, path):
            try:
                path.rename(make_folder(place / checkpoint.FOLDER) / path.name)
            except OSError as error:
                raise storage_error(path, error) from error


def told(decision: Decision) -> str:
    """A roll-back in a line for a person."""
    steps = decision.clock.steps if decision.clock else 0
    parts = [f"step {decision.step}: {decision.why}; going back to step {steps}"]
    if decision.skip is not None:
        parts.append(f"without samples {decision.skip[0]} to {decision.skip[1] - 1} of the order")
    if decision.rate != 1:
        parts.append(f"with {decision.rate:g} times the rate")
    if decision.embedding != 1:
        parts.append(f"with {decision.embedding:g} times the embeddings' gradient")
    return ", ".join(parts)


def ended(decision: Decision) -> UserError:
    """What a run that stops by itself says."""
    where = decision.evidence.get("indices", ["?", "?"])
    error = UserError(
        f"step {decision.step}",
        f"{decision.why}; its samples are {where[0]} to {where[1]} of the order",
        f"see {decisions.FILE} in the run folder; a lower rate, objective.z_loss or a longer warm-up may help",
    )
    error.by_all = True
    return error
