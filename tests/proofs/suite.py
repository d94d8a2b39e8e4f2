"""Claims of the default tests: that they need no network, and how much of the package they run."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def outcome() -> tuple[int, int, float]:
    """Tests that ran, those among them that failed, and the share of branches and lines run, without a network.

    Raises:
        RuntimeError: this machine gives no network namespace, or pytest itself failed.
    """
    place = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    report, coverage = place / "junit.xml", place / "coverage.json"
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    tests = [
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--numprocesses=auto",
        "--dist=loadfile",
        f"--junit-xml={report}",
        "--cov",
        f"--cov-report=json:{coverage}",
    ]
    environment = {**os.environ, "COVERAGE_FILE": str(place / "data"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*alone, sys.executable, *tests], cwd=ROOT, stdout=sys.stderr, env=environment, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(alone)} pytest ended with {done.returncode}")
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    count, failures, errors = (int(suite.get(key, "0")) for key in ("tests", "failures", "errors"))
    totals = json.loads(coverage.read_text())["totals"]
    shutil.rmtree(place)
    share = (totals["covered_lines"] + totals["covered_branches"]) / (totals["num_statements"] + totals["num_branches"])
    return count, failures + errors, share


def failures_without_network() -> tuple[float, int]:
    """Tests that fail in a network namespace of their own."""
    count, failed, _ = outcome()
    return (float(failed), count) if count else (float("nan"), 0)


def branch_coverage() -> tuple[float, int]:
    """Share of the package's lines and branches that the tests run."""
    count, _, share = outcome()
    return round(share, 4), count
