"""Claims of the default recipe beside others, after three minutes of training: by a seed that today's date draws."""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".venv-bench" / "bin" / "python"
"""The environment with the peers, which `make` builds before these claims are run."""


@functools.cache
def figures() -> list[dict[str, Any]]:
    """What the benchmark says of one more run of each recipe, with the sizes and rates that its record chose."""
    command = [str(BENCH), "benchmarks/quality.py", "--again", datetime.date.today().isoformat()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def ratio(peer: str) -> tuple[float, int]:
    """The default's bits per byte as a share of a peer's; not a number where the peer is not installed."""
    found = [row["value"] for row in figures() if row.get("figure") == f"default / {peer}"]
    return (float(found[0]), 1) if found else (float("nan"), 0)


def default_beside_gpt2() -> tuple[float, int]:
    """Against GPT-2's recipe in this trainer."""
    return ratio("gpt2")


def default_beside_pythia() -> tuple[float, int]:
    """Against litgpt's Pythia in a plain loop."""
    return ratio("pythia")
