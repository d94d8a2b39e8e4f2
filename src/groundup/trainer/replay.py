"""Puts a recorded run to a policy and says what it would have decided, a line each; it changes nothing.

python -m groundup.trainer.replay run=RUN [policy=NAME] [key=value ...]

The keys are those of the callback `recovery`. The record goes on as it was, whatever is decided: after each roll-back
the policy is told of it and begins to learn anew what is usual.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import groundup.callback.config
from groundup.callback import history
from groundup.callback.policy import GO, ROLL_BACK, STOP, Escalate, Signals, Verdict
from groundup.callback.published import policy_of
from groundup.core.config import from_dict
from groundup.core.errors import ConfigError, DataError, answered
from groundup.trainer import segments as segment_list
from groundup.trainer.find import find
from groundup.trainer.rollback import ATTEMPTS

SIGNALS = groundup.callback.config.SIGNALS


def recorded(folder: Path) -> list[Signals]:
    """What was seen of each step of a run, or of an attempt that it gave up, from the first step on.

    Raises:
        DataError: as `rows_of`.
    """
    if folder.parent.name != ATTEMPTS:
        return rows_of(folder)
    rows = rows_of(folder.parents[1])
    for number in range(len(list(folder.parent.iterdir())), int(folder.name) - 1, -1):  # each left the next at a step
        own = rows_of(folder.with_name(str(number)))
        rows = [row for row in rows if row.step < own[0].step] + own
    return rows


def rows_of(folder: Path) -> list[Signals]:
    """The rows that stand in a folder.

    They are in signals.csv where the run was watched by `recovery`, else in metrics.csv where every step was logged.

    Raises:
        DataError: neither is there, or steps are missing.
    """
    found, prefix = history.read(folder / SIGNALS), ""
    if not found:
        found, prefix = history.read(folder / history.METRICS), "train/"
    loss, norm = found.get(f"{prefix}loss"), found.get(f"{prefix}gradient_norm")
    if loss is None or norm is None or loss.steps != norm.steps:
        raise DataError(str(folder), "holds no record of a run's steps", "name a run or one of its attempts/<n>")
    if loss.steps != list(range(loss.steps[0], loss.steps[-1] + 1)):
        what = "holds some steps only"
        raise DataError(str(folder), what, "train with callback=[default,recovery] or trainer.log_every=1")
    return [Signals(*row) for row in zip(loss.steps, loss.values, norm.values, strict=True)]


def replay(options: Any, rows: Sequence[Signals], changes: Sequence[int]) -> Iterator[tuple[Signals, Verdict]]:
    """Every step at which a policy would not have let the run go on, until it would have stopped it.

    Args:
        options: of the callback `recovery`.
        rows: in the order of their steps.
        changes: clock readings, in steps, at which planned changes began.
    """
    tried: list[int] = []
    policy = policy_of(options, changes, tried)
    for row in rows:
        verdict = policy.observe(row)
        if verdict.action == GO:
            continue
        yield row, verdict
        if verdict.action == STOP:
            return
        if verdict.action == ROLL_BACK and isinstance(policy, Escalate):
            policy.tried.append(row.step)
            policy.relax()


def told(row: Signals, verdict: Verdict) -> str:
    """A verdict in a line."""
    parts = [f"step {row.step}: {verdict.action.replace('_', ' ')}: {verdict.why}"]
    if verdict.action == ROLL_BACK:
        parts.append(f"to step {verdict.before} or before")
        if verdict.skip_until is not None:
            parts.append(f"without the samples of steps {verdict.before + 1} to {verdict.skip_until}")
        parts += [f"{name} x {factor:g}" for name, factor in _factors(verdict) if factor != 1]
    figures = ", ".join(f"{name} {value:.5g}" for name, value in verdict.evidence.items())
    return f"{', '.join(parts)} ({figures})"


def _factors(verdict: Verdict) -> list[tuple[str, float]]:
    return [("rate", verdict.rate), ("gradient of embeddings", verdict.embedding)]


def _settings(arguments: Sequence[str]) -> dict[str, Any]:
    """What stands in `key=value` words; values are JSON where they can be."""
    found: dict[str, Any] = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(word, "is no key=value", "write run=RUN policy=escalate sigmas=6")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    return answered(lambda: _replayed(sys.argv[1:] if arguments is None else arguments))


def _replayed(arguments: Sequence[str]) -> int:
    settings = _settings(arguments)
    if "run" not in settings:
        raise ConfigError("run", "needs a value", "give run=RUN, a run's folder or one of its attempts/<n>")
    given = Path(str(settings.pop("run"))).expanduser()
    folder = given if (given / SIGNALS).is_file() else find(str(given))
    options = from_dict("callback", {"kind": "recovery", **settings})
    rows = recorded(folder)
    whole = folder.parents[1] if folder.parent.name == ATTEMPTS else folder
    plan = segment_list.read(whole)[1] if (whole / segment_list.FILE).is_file() else []
    changes = [segment.first.steps for segment in plan if segment.planned and segment.first.steps]
    lines = [told(row, verdict) for row, verdict in replay(options, rows, changes)]
    print(*lines, f"{options.policy}: {len(lines)} decisions on steps {rows[0].step} to {rows[-1].step}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
