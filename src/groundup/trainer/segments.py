"""A run as a list of segments: within one the effective config is constant; this knows no torch and no devices.

`segments.jsonl` in the run folder is the list. Its first line holds the whole config, each further line what
changed and from which clock reading on, so that the effective config at any step is a pure function of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from groundup.core.config import fingerprint, schema
from groundup.core.config.schema import option
from groundup.core.errors import CheckpointError, ConfigError, nearest
from groundup.core.files import atomic_write
from groundup.core.progress import Progress

FILE = "segments.jsonl"
MEANINGS = ("objective.sentinels", "objective.first_sentinel", "objective.mask_id")
"""Options by which ids mean what they mean."""

CHANGEABLE = ("optimizer.", "schedule.", "objective.", "data.batch_tokens", "data.weights", "data.skips")


@schema("change", "at")
class Change:
    """A planned change of the run: from `tokens` on, these keys have these values."""

    tokens: int = option(doc="clock reading, in tokens, from which the change holds", at_least=1)
    set: dict[str, Any] = option({}, "dotted keys and their new values")


@dataclass(frozen=True)
class Segment:
    """A stretch of the run with one effective config.

    Attributes:
        first: clock reading at its start.
        last: clock reading at its end.
        set: every dotted key that differs from the run's first config.
        reason: why it began.
        planned: a change of the plan begins with it; False where a decision of the run itself does.
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


def plan(config: Any, changes: Sequence[tuple[int, dict[str, Any], str]], tokens: int) -> list[Segment]:
    """The segments of a run of `tokens` tokens; a change begins at the first step boundary at or after its tokens.

    Args:
        config: the run's first config: a dataclass with `data.context` and `data.batch_tokens`.
        changes: (tokens, keys, reason) in the order of their tokens.
        tokens: length of the run; the last step may run past it.
    """
    segments: list[Segment] = []
    clock, keys, reason = Progress(), dict[str, Any](), "start"
    for until, further, why in [*changes, (tokens, {}, "end")]:
        effective = apply(config, keys)
        samples = effective.data.batch_tokens // effective.data.context
        each = samples * effective.data.context
        steps = max(0, -(-(min(until, tokens) - clock.tokens) // each))
        if steps:
            last = clock.after(steps=steps, samples=steps * samples, tokens=steps * each)
            segments.append(Segment(clock, last, dict(keys), reason))
            clock, reason = last, why
        else:
            reason = f"{reason}, {why}" if segments else reason
        keys = {**keys, **further}
    return segments


def apply(config: Any, keys: dict[str, Any]) -> Any:
    """A copy of a config with dotted keys set, each component's own checks run again.

    Raises:
        ConfigError: a key that does not exist or may not change in flight, or a value its component refuses.
    """
    changed = copy.deepcopy(config)
    for key, value in keys.items():
        if key != "tokens" and not key.startswith(CHANGEABLE):
            raise ConfigError(f"changes: {key}", "cannot change in flight", f"allowed: {', '.join(CHANGEABLE)}")
        *path, name = key.split(".")
        parents = [changed]
        for part in path:
            parents.append(getattr(parents[-1], part, None))
        owner = parents[-1]
        if not is_dataclass(owner) or isinstance(owner, type) or name not in {f.name for f in fields(owner)}:
            known = [f.name for f in fields(owner)] if is_dataclass(owner) else []
            raise ConfigError(f"changes: {key}", "no such option", nearest(name, known))
        if key in MEANINGS:
            raise ConfigError(f"changes: {key}", "would give ids another meaning in flight", "begin another run")
        kind = str(next(f.type for f in fields(owner) if f.name == name))
        if not _fits(value, kind):
            wanted = kind.replace("None", "null")
            raise ConfigError(f"changes: {key}={value}", f"must be {wanted}", "correct the change")
        try:
            new: Any = replace(owner, **{name: value})
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"changes: {key}={value}", str(error), "correct the change") from None
        for parent, part in zip(reversed(parents[:-1]), reversed(path), strict=True):
            setattr(parent, part, new)
            new = parent
        changed = new
    return changed


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a type as it is written; of lists and the like nothing is said here."""
    names = kind.split(" | ")
    plain: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    if not set(names) <= {*plain, "None"}:
        return True
    if value is None or isinstance(value, bool):
        return ("None" if value is None else "bool") in names
    return any(isinstance(value, plain[name]) for name in names if name in plain and name != "bool")


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
