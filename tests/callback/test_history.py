"""The metrics file: exact, append-safe, and after a resume that of an undisturbed run."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.callback.history import History, read
from groundup.core.errors import DataError, StorageError


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_every_float_comes_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("h") / "metrics.csv"
    for step, value in enumerate(values):
        History(path).append(step, {"loss": value})
    back = read(path)["loss"]
    assert back.steps == list(range(len(values)))
    for value, found in zip(values, back.values, strict=True):
        assert (math.isnan(value) and math.isnan(found)) or struct.pack("d", value) == struct.pack("d", found)


@given(st.integers(0, 12), st.integers(0, 40), st.booleans())
def test_a_run_killed_anywhere_and_resumed_leaves_the_file_of_an_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory, saved: int, cut: int, torn: bool
) -> None:
    def log(history: History, steps: range) -> None:
        for step in steps:
            history.append(step, {"train/loss": 1 / step, "train/rate": 0.1})
            if step % 4 == 0:
                history.append(step, {"held_out/all": 2 / step})

    folder = tmp_path_factory.mktemp("h")
    whole, killed = History(folder / "whole.csv"), History(folder / "killed.csv")
    log(whole, range(1, 13))
    log(killed, range(1, 13))
    kept_bytes = (folder / "killed.csv").read_bytes()
    boundary = b"".join(
        line for line in kept_bytes.splitlines(keepends=True) if line[:1] == b"s" or int(line.split(b",")[0]) <= saved
    )
    later = kept_bytes[len(boundary) :]
    tail = later[: min(cut, len(later))] if torn else later
    killed.path.write_bytes(boundary + tail)
    killed.rewind(saved)
    log(killed, range(saved + 1, 13))
    assert killed.path.read_bytes() == whole.path.read_bytes()


def test_a_metric_that_appears_late_leaves_the_columns_as_they_are(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.append(1, {"loss": 2.5})
    history.append(2, {"loss": 2.25, "held_out/all": 1.5, "count": 7})
    assert history.path.read_text() == "step,name,value\n1,loss,2.5\n2,loss,2.25\n2,held_out/all,1.5\n2,count,7\n"
    found = read(history.path)
    assert found["held_out/all"].steps == [2] and found["loss"].last == 2.25


def test_rewinding_where_nothing_is_later_does_not_touch_the_file(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.append(3, {"loss": 1.0})
    before = history.path.stat()
    history.rewind(3)
    assert history.path.stat().st_ino == before.st_ino
    history.sync()


def test_a_file_that_is_not_there_is_an_empty_history(tmp_path: Path) -> None:
    history = History(tmp_path / "no" / "metrics.csv")
    history.rewind(5)
    history.sync()
    assert read(history.path) == {} and not history.path.parent.exists()


@pytest.mark.parametrize("name", ["", "a,b", 'a"b', "a\nb"])
def test_a_name_that_would_break_the_columns_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a metric"):
        History(tmp_path / "metrics.csv").append(1, {name: 1.0})


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,loss,2.0\n2,lo")
    with pytest.raises(DataError, match=r"metrics\.csv:3"):
        read(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").mkdir()
    for write in (lambda history: history.append(1, {"loss": 1.0}), lambda history: history.sync()):
        with pytest.raises(StorageError, match=r"metrics\.csv"):
            write(History(tmp_path / "metrics.csv"))
