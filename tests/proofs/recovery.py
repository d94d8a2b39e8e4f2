"""Claims of runs that mend themselves: how often, at what price, and that they leave well alone."""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import peers  # noqa: E402
import spikes  # noqa: E402


@functools.cache
def record() -> list[dict[str, Any]]:
    """The rows that were made of who decides now."""
    return spikes.current(peers.RECORDS / "spikes.jsonl")


def recovered_in_the_record() -> tuple[float, int]:
    """Of the record's cases, so many of eighty."""
    if not record():
        return float("nan"), 0
    found = spikes.recovered(record(), "escalate", spikes.deviation(record()))
    print(found["by_kind"], file=sys.stderr)
    return 80 * found["recovered"] / found["cases"], found["cases"]


def cases_in_the_record() -> tuple[float, int]:
    """How many there are."""
    cases = spikes.recovered(record(), "escalate", spikes.deviation(record()))["cases"] if record() else 0
    return float(cases), cases


def recovered_again() -> tuple[float, int]:
    """A seed that today's date draws, beside the record's clean runs."""
    command = [sys.executable, "benchmarks/spikes.py", "--again", datetime.date.today().isoformat()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, file=sys.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (found,) = (row for row in rows if row.get("figure") == "recovered")
    return found["recovered"] / max(1, found["cases"]), found["cases"]


def false_alarms() -> tuple[float, int]:
    """Steps of clean runs, by their records, that would not have been let go."""
    found = spikes.false_alarms(record())
    return float(found.get("escalate", float("nan"))), found.get("steps", 0)


def clean_steps() -> tuple[float, int]:
    """How many of them there are."""
    steps = spikes.false_alarms(record()).get("steps", 0)
    return float(steps), steps


def watching_takes() -> tuple[float, int]:
    """The share of a step, in a process of its own."""
    command = [sys.executable, "benchmarks/watch.py"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figure = json.loads(done.stdout.splitlines()[-1])
    print(figure, file=sys.stderr)
    return figure["share"], 100
