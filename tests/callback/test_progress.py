"""The line about a run: plain in a file, live on a terminal, saying only what is known."""

from __future__ import annotations

import io
import sys

import pytest

from groundup.callback import config
from groundup.callback.progress import Progress, describe
from groundup.callback.throughput import Throughput
from groundup.core.bits import OF_HIDDEN
from groundup.core.errors import ConfigError


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "step" in line]


def test_a_line_stands_for_the_first_the_last_and_each_chosen_step(run, capsys) -> None:
    run(Progress(config.Progress(every_steps=4, every_seconds=None)), steps=9)
    told = lines(capsys.readouterr().out)
    assert [line.split()[1] for line in told] == ["1/9", "4/9", "8/9", "9/9"]


def test_a_run_that_stops_before_its_end_tells_where(run, capsys) -> None:
    def longer(module) -> None:
        module.total = module.total.after(steps=100, samples=0, tokens=0)

    run(Progress(config.Progress(every_steps=4, every_seconds=None)), steps=6, prepare=longer)
    assert [line.split()[:2] for line in lines(capsys.readouterr().out)][-1] == ["step", "6/106"]


def test_a_line_says_where_the_run_stands(run, capsys) -> None:
    speed = Throughput(config.Throughput(measure=False))
    run(speed, Progress(config.Progress(every_steps=1, every_seconds=None)), steps=4)
    line = lines(capsys.readouterr().out)[2]
    assert line.startswith("step 3/4  96 tokens  loss ")
    assert "rate 1.00e-02" in line and "gradient 0.50" in line and "tokens/s" in line and line.endswith(" left")
    assert "bits/byte" not in line


def test_held_out_figures_are_told_and_then_stay_in_the_line(run, capsys) -> None:
    run(Progress(config.Progress(every_steps=1, every_seconds=None)), steps=3, validate=2)
    told = lines(capsys.readouterr().out)
    assert told[2] == "step 2  held-out bits per byte 1.2500  (bible 1.5000)"
    assert "held-out 1.2500 bits/byte" in told[3] and "held-out" not in told[0]


def test_figures_of_hidden_text_are_called_so(run, capsys) -> None:
    def masked(module) -> None:
        module.unit = OF_HIDDEN

    run(Progress(config.Progress(every_steps=1, every_seconds=None)), steps=3, validate=2, prepare=masked)
    told = lines(capsys.readouterr().out)
    assert told[2] == "step 2  held-out bits per hidden byte 1.2500  (bible 1.5000)"
    assert "held-out 1.2500 bits/hidden byte" in told[3]


def test_utilisation_is_called_mfu_only_against_a_published_peak(run) -> None:
    speed = Throughput(config.Throughput(measure=False))
    module, _ = run(speed, steps=3)
    speed.measured = 1e9
    assert "of matrix rate" in describe(module, speed, None)
    speed.peak = 1e9
    assert "MFU" in describe(module, speed, None) and "matrix" not in describe(module, speed, None)
    assert "left" not in describe(module, None, 5.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_is_written_over_itself_and_stands_at_the_end(run, monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    run(Progress(config.Progress(every_steps=1, every_seconds=None)), steps=3)
    shown = screen.getvalue()
    assert shown.count("\r\x1b[2K") == 3 and shown.count("\n") == 1 and shown.endswith("\n")
    first = shown.split("\r\x1b[2K")[1]
    assert len(first) == 39


def test_an_interrupted_live_line_stays_above_the_error(run, monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    line = Progress(config.Progress(every_steps=1))
    module, trainer = run(steps=1)
    module.total = module.total.after(steps=5, samples=0, tokens=0)
    line.on_train_batch_end(trainer, module, None, None, 0)
    assert not screen.getvalue().endswith("\n")
    line.on_exception(trainer, module, KeyboardInterrupt())
    assert screen.getvalue().endswith("\n")


def test_a_line_that_would_never_come_is_refused() -> None:
    with pytest.raises(ConfigError, match="every_seconds"):
        config.Progress(every_steps=None, every_seconds=None)
