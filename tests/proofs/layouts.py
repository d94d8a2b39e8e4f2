"""Claims of the layouts: each computes what one process does, and goes on where another stopped."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("gpt2", "neox", "llama", "mixtral", "t5")
CROSSING = ("gpt2", "mixtral")
"""Networks whose runs go on in other layouts."""


@functools.cache
def rows(*arguments: str) -> list[dict[str, Any]]:
    """Of the table of benchmarks/layouts.py, which runs train.py's own loop."""
    command = [sys.executable, "benchmarks/layouts.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for row in found:
        print(row, file=sys.stderr)
    return found


def worst(found: list[dict[str, Any]]) -> tuple[float, int]:
    """The largest difference of a loss or a gradient norm, and of how many rows."""
    return max(max(row["loss_differs_by"], row["norm_differs_by"]) for row in found), len(found)


def crossed() -> list[dict[str, Any]]:
    """Rows of runs that went on with another's checkpoint."""
    every = rows("--cross", "--steps=10", *(f"--network={network}" for network in CROSSING))
    return [row for row in every if "from" in row]


def every_row() -> list[dict[str, Any]]:
    """Networks in every layout."""
    return rows(*(f"--network={network}" for network in NETWORKS))


def compared() -> list[dict[str, Any]]:
    """But for those that the others are compared with."""
    return [row for row in every_row() if row["layout"] not in ("single", "single, 8 layers", "single, fp32")]


def layouts_differ_by() -> tuple[float, int]:
    """Networks in every layout, in float64."""
    return worst([row for row in compared() if row["precision"] == "fp64"])


def deepspeed_differs_by() -> tuple[float, int]:
    """Networks in its three stages, which sum in fp32."""
    found = [row for row in compared() if row["precision"] == "fp32"]
    if not found:
        raise SkipTest("DeepSpeed is not installed: requirements-deepspeed.txt")
    return worst(found)


def bytes_differ_by() -> tuple[float, int]:
    """What ranks hold beside the formula of docs/guide/parallelism.md, written out in groundup.scaling.memory."""
    found = [row for row in every_row() if "held_differs_by" in row]
    return max(row["held_differs_by"] for row in found), len(found)


def continued_runs_differ_by() -> tuple[float, int]:
    """From each layout to each other."""
    return worst([row for row in crossed() if row["from"] != row["layout"]])


def continued_runs_not_bitwise() -> tuple[float, int]:
    """On the layout that stopped, beside the run that never did."""
    same = [row for row in crossed() if row["from"] == row["layout"]]
    return float(sum(worst([row])[0] != 0 for row in same)), len(same)
