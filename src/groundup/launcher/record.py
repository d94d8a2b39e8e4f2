"""What befell the launches of a run, a line each in `launches.jsonl` among its logs; what follows from it is not known.

Events: `started`, `ended`, `failed`, `restarted`, `given_up` and `stopped` from the supervisor, `hung` from the
watchdog, `unfit` from the health check, and `slow` from the comparison of ranks.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from groundup.core.files import append_json, read_lines

FILE = "launches.jsonl"


def note(logs: Path, event: str, **details: Any) -> None:
    """Add a line, durably.

    Args:
        logs: the run's folder of logs.
        event: what happened.
        details: whatever JSON can hold: `why`, `step`, `node` and the like.

    Raises:
        StorageError: it cannot be written.
    """
    append_json(logs / FILE, {"time": now(), "event": event, **details})


def events(logs: Path, *wanted: str) -> list[dict[str, Any]]:
    """The lines of these events, or of all, in their order."""
    return [line for line in read_lines(logs / FILE) if not wanted or line["event"] in wanted]


def now() -> str:
    """The time with its zone, to the millisecond."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
