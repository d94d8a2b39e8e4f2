"""A run as a list of segments: within one the effective config is constant; this knows no torch and no devices.

`segments.jsonl` in the run folder is the list. Its first line holds the whole config, each further line what
changed and from which clock reading on, so that the effective config at any step is a pure function of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.core.config import fingerprint
from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_write
from groundup.core.progress import Progress
from groundup.trainer.changes import apply

FILE = "segments.jsonl"


@dataclass(frozen=True)
class Segment:
    """A stretch of the run with one effective config.

    Attributes:
        first: clock reading at its start.
        last: clock reading at its end.
        set: every dotted key that differs from the run's first config.
        reason: why it began.
        planned: a person's change begins with it; False where a decision of the run itself does.
    """

    first: Progress
    last: Progress
    set: dict[str, Any] = field(default_factory=dict)
    reason: str = "start"
    planned: bool = True

    @property
    def steps(self) -> int:
        """Optimizer steps in it."""
        return self.last.steps - self.first.steps


@dataclass(frozen=True)
class Break:
    """A clock reading, in tokens, at or behind which a segment must end, why, and whether a person planned it."""

    tokens: int
    why: str
    planned: bool = True


def lay_out(
    config: Any,
    breaks: Sequence[Break],
    keys: Callable[[int], dict[str, Any]],
    tokens: int,
    done: Sequence[Segment] = (),
) -> list[Segment]:
    """The segments of a run of `tokens` tokens, each from the first step boundary at or after its breaks.

    Args:
        config: the run's first config: a dataclass with `data.context` and `data.batch_tokens`.
        breaks: in any order.
        keys: what differs from the first config at a clock reading in tokens; it changes at breaks alone.
        tokens: length of the run; the last step may run past it.
        done: the first segments, which stay as they are.
    """
    segments = list(done)
    clock, before = (done[-1].last, done[-1].first.tokens) if done else (Progress(), -1)
    while clock.tokens < tokens:
        begun = [entry for entry in breaks if before < entry.tokens <= clock.tokens]
        until = min([tokens, *(entry.tokens for entry in breaks if entry.tokens > clock.tokens)])
        found = keys(clock.tokens)
        data = apply(config, found).data
        samples = data.batch_tokens // data.context
        steps = -(-(until - clock.tokens) // (samples * data.context))
        last = clock.after(steps=steps, samples=steps * samples, tokens=steps * samples * data.context)
        reasons = [*([] if segments else ["start"]), *(entry.why for entry in begun)]
        planned = not begun or any(entry.planned for entry in begun)
        segments.append(Segment(clock, last, found, ", ".join(dict.fromkeys(reasons)), planned))
        clock, before = last, clock.tokens
    return segments


def at(segments: Sequence[Segment], clock: Progress) -> int:
    """The number of the segment in which the step after a clock reading falls; their count at the run's end."""
    for number, segment in enumerate(segments):
        if clock.steps < segment.last.steps:
            return number
    return len(segments)


def digest(segments: Sequence[Segment], clock: Progress) -> str:
    """A hash of what led to a clock reading: every segment begun before it, by its start and keys.

    Later changes and a later end leave it as it is, so a run may be extended.
    """
    return fingerprint([[asdict(s.first), s.set] for s in segments if s.first.steps < clock.steps])


def write(folder: Path, config: dict[str, Any], segments: Sequence[Segment]) -> None:
    """Write the list to the run folder, atomically.

    Raises:
        StorageError: it cannot be written.
    """
    lines = [{"config": config}, *({**asdict(segment)} for segment in segments)]
    atomic_write(folder / FILE, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def read(folder: Path) -> tuple[dict[str, Any], list[Segment]]:
    """The first config and the segments of a run folder.

    Raises:
        CheckpointError: the list is missing or damaged.
    """
    path = folder / FILE
    try:
        first, *rest = (json.loads(line) for line in path.read_text().splitlines())
        segments = [
            Segment(
                Progress(**line["first"]),
                Progress(**line["last"]),
                line["set"],
                line["reason"],
                line.get("planned", True),  # a run of before there were decisions
            )
            for line in rest
        ]
        return dict(first["config"]), segments
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error})", "restore it, or start over with fresh=true"
        ) from None
