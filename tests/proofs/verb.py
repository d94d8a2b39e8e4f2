"""Claims of the verbs: what `make train` makes, in what time, and how fast bad input is refused."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def first_run() -> tuple[dict[str, Any], float]:
    """The figures of the report of the default run, made anew, and the minutes that prepare and train took."""
    place = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    began = time.monotonic()
    for line in (
        ["prepare.py", f"path={place}/data"],
        ["train.py", f"data.path={place}/data", f"runs={place}/runs"],
    ):
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (report,) = (place / "runs").glob("*/*/report.json")
    return json.loads(report.read_text()), (time.monotonic() - began) / 60


def statistics() -> dict[str, Any]:
    """What the report says of its samples."""
    return dict(first_run()[0]["samples"]["statistics"])


def words_are_words() -> tuple[float, int]:
    """Share of the words written that occur in the training text."""
    found = statistics()
    return float(found["valid"]), int(found["words"])


def samples_do_not_repeat_themselves() -> tuple[float, int]:
    """Share of distinct 4-grams."""
    found = statistics()
    return float(found["distinct"]), int(found["words"])


def samples_are_not_copied() -> tuple[float, int]:
    """Number of 13-grams that stand in the training text."""
    found = statistics()
    return float(len(found["copied"])), int(found["words"])


def first_run_minutes() -> tuple[float, int]:
    """Minutes that prepare and train took."""
    return round(first_run()[1], 2), 1


def refusals_are_quick() -> tuple[float, int]:
    """Seconds that the slowest refusal of a bad input takes, one at a time."""
    spec = importlib.util.spec_from_file_location("bad_inputs", ROOT / "tests" / "verb" / "bad_inputs.py")
    assert spec is not None and spec.loader is not None
    bad_inputs = importlib.util.module_from_spec(spec)
    sys.modules["bad_inputs"] = bad_inputs
    spec.loader.exec_module(bad_inputs)
    place = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    world, slowest = bad_inputs.make(place / "world"), 0.0
    for number, case in enumerate(bad_inputs.CASES):
        mine = bad_inputs.fresh_copy(world, place / str(number))
        case.spoil(mine)
        began = time.monotonic()
        result = bad_inputs.call(mine, case.verb, case.arguments, plain=case.plain)
        seconds = time.monotonic() - began
        if result.returncode != 2:
            return float("nan"), number
        if seconds > slowest:
            slowest = seconds
            print(f"{case.name}: {seconds:.2f} s", file=sys.stderr)
    return round(slowest, 2), len(bad_inputs.CASES)
