"""Laws of putting a recorded run to a policy."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from groundup.callback.history import METRICS, History
from groundup.core.progress import Progress
from groundup.trainer import segments
from groundup.trainer.replay import main
from groundup.trainer.segments import Segment


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run whose loss jumps at step 301, and again, as planned, at step 601."""
    draw, log = random.Random(0), History(tmp_path / METRICS)
    for step in range(1, 901):
        loss = 3 + draw.gauss(0, 0.02) + (1 if 300 < step <= 360 else 0) + (1 if step > 600 else 0)
        log.append(step, {"train/loss": loss, "train/gradient_norm": 1.0 + draw.random()})
    clocks = [Progress(step, step, step) for step in (0, 600, 900)]
    segments.write(tmp_path, {}, [Segment(*clocks[:2]), Segment(*clocks[1:], reason="change")])
    return tmp_path


def test_a_line_says_what_would_have_been_decided(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={run}", "policy=escalate", "patience=7"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("step 307: roll back: the loss spiked and did not come down, to step 200 or before")
    assert "without the samples of steps 201 to 500" in lines[0]
    assert total == "escalate: 1 decisions on steps 1 to 900"


def test_other_policies_decide_otherwise(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={run}", "policy=olmo_core"]) == 0
    assert capsys.readouterr().out.startswith("step 301: skip")
    assert main([f"run={run}", "policy=llm_foundry"]) == 0
    assert capsys.readouterr().out.startswith("llm_foundry: 0 decisions")


@pytest.mark.parametrize("words", [["run"], ["policy=escalate"], ["run=/nowhere"], ["patience=0"]])
def test_what_cannot_be_is_told_in_one_line(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words if words[0] != "patience=0" else [f"run={run}", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_record_with_gaps_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / METRICS
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("5,")))
    assert main([f"run={run}"]) == 2
    assert "some steps only" in capsys.readouterr().err
