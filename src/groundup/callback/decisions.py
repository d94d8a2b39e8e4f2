"""What was decided about a run on its way, a line each in decisions.jsonl; who decides and acts is not known here.

A line is on disk before it takes effect, and lines are never changed: with the config they are all that the run's
segments follow from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groundup.callback.policy import ROLL_BACK, SKIP
from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_write
from groundup.core.progress import Progress

FILE = "decisions.jsonl"
CHANGE = "change"


@dataclass(frozen=True)
class Decision:
    """One line.

    Attributes:
        attempt: 1 for the first, one more after each roll-back; what is kept of it stands in attempts/<attempt>.
        step: the step at which it was made, counted from 1.
        action: skip, roll_back or stop; change where a person decided.
        why: in words.
        evidence: the figures it rests on; what is not finite stands as a word.
        clock: roll_back: the reading that is gone back to; change: that from which on it holds.
        checkpoint: roll_back: what is read then; None: the run begins anew.
        skip: roll_back: indices [first, end) of the order never to be served again; None: all are.
        rate: roll_back: multiplies the rate from there on.
        embedding: roll_back: multiplies the embeddings' gradient from there on.
        changes: change: all that the file of changes says, in the place of what it said before.
    """

    attempt: int
    step: int
    action: str
    why: str
    evidence: dict[str, Any] = field(default_factory=dict)
    clock: Progress | None = None
    checkpoint: str | None = None
    skip: list[int] | None = None
    rate: float = 1.0
    embedding: float = 1.0
    changes: list[dict[str, Any]] | None = None

    @property
    def goes_back(self) -> bool:
        """Whether a new attempt begins with it."""
        return self.action == ROLL_BACK


def read(folder: Path) -> list[Decision]:
    """The decisions of a run folder in their order; none where there is no file.

    Raises:
        CheckpointError: a line is no decision.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Decision(**{**line, "clock": line["clock"] and Progress(**line["clock"])}) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error})", "restore it, or start over with fresh=true"
        ) from None


def attempts(decisions: Sequence[Decision]) -> int:
    """How often the run has gone back."""
    return sum(decision.goes_back for decision in decisions)


def record(folder: Path, decision: Decision) -> None:
    """Add a line, durably; a skipped step that is skipped again after a restart stands there already.

    Raises:
        StorageError: it cannot be written; what was decided before stays.
    """
    path = folder / FILE
    skipped = {(before.attempt, before.step) for before in read(folder) if before.action == SKIP}
    if decision.action == SKIP and (decision.attempt, decision.step) in skipped:
        return
    line = json.dumps({**asdict(decision), "evidence": _plain(decision.evidence)}, allow_nan=False)
    atomic_write(path, (path.read_text(encoding="utf-8") if path.exists() else "") + line + "\n")


def _plain(value: Any) -> Any:
    """The same as JSON can say it, figures to five digits."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    return value
