"""The quality benchmark in its tiny mode: every recipe that can run does, the others are named, and rows are kept."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "quality.py"
sys.path.insert(0, str(SCRIPT.parent))
import quality  # noqa: E402

sys.path.remove(str(SCRIPT.parent))


def run(*arguments: str) -> list[dict[str, object]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--source", "topics", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_recipe_runs_or_names_its_absent_peer_and_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    record = tmp_path / "quality.jsonl"
    place = ("--record", str(record), "--work", str(tmp_path))
    lines = run(*place)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    here = importlib.util.find_spec("litgpt") is not None
    assert [row["recipe"] for row in rows] == ["default", "gpt2", *(["pythia"] if here else [])]
    assert all(1 < row["bits_per_byte"] < 9 and row["steps"] == 6 and row["training_seconds"] > 0 for row in rows)
    assert here or {"benchmark": "quality", "recipe": "pythia", "skipped": "litgpt is not installed"} in lines
    ratio = next(line for line in lines if line.get("figure") == "default / gpt2")
    assert ratio["value"] == round(rows[0]["bits_per_byte"] / rows[1]["bits_per_byte"], 4)
    assert "bar" not in ratio, "a tiny run proves nothing"

    before = record.read_bytes()
    again = run(*place, "--resume", "--recipes", "default", "gpt2")
    assert record.read_bytes() == before
    assert [line for line in again if line.get("figure") == "default / gpt2"] == [ratio]

    run(*place, "--recipes", "gpt2", "--again", "2026-01-31")
    (added,) = [json.loads(line) for line in record.read_text().splitlines()][len(rows) :]
    assert (added["recipe"], added["choice"]) == (rows[1]["recipe"], rows[1]["choice"])
    assert added["seed"] > 1000


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("source", ["bible", "topics"])
def test_only_a_whole_run_of_the_text_of_the_bar_is_held_to_it(source: str, tiny: bool, capsys) -> None:
    row = {"training_seconds": 1.0, "choice": {}, "model": {}}
    final = {"default": [{**row, "bits_per_byte": 0.9}], "gpt2": [{**row, "bits_per_byte": 1.0}]}
    quality.report(final, argparse.Namespace(source=source, tiny=tiny))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (ratio,) = [line for line in lines if line["figure"] == "default / gpt2"]
    assert ratio["value"] == 0.9
    assert ("bar" in ratio, ratio.get("holds")) == ((True, True) if source == "bible" and not tiny else (False, None))
