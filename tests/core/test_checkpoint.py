"""Laws of checkpoint directories: whole or absent, verified, the newest good one found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from groundup.core import checkpoint
from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_write, entry_of


def make(run: Path, step: int, text: str = "weights") -> Path:
    partial = checkpoint.begin(run, step)
    atomic_write(partial / "data.bin", text)
    return checkpoint.commit(run, step, {"data.bin": entry_of(partial / "data.bin")})


def test_a_committed_checkpoint_verifies_and_leaves_nothing_partial(tmp_path: Path) -> None:
    folder = make(tmp_path, 7)
    checkpoint.verify(folder)
    assert folder.name == "step-7"
    assert [path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()] == ["step-7"]


def test_a_partial_folder_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    make(tmp_path, 3)
    partial = checkpoint.begin(tmp_path, 9)
    (partial / "data.bin").write_text("half")
    assert checkpoint.newest(tmp_path, pytest.fail) == checkpoint.path_of(tmp_path, 3)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "marker"])
def test_a_damaged_checkpoint_is_told_of_and_an_older_one_taken(tmp_path: Path, damage: str) -> None:
    make(tmp_path, 3)
    newest = make(tmp_path, 10)
    data = newest / "data.bin"
    match damage:
        case "flip":
            data.write_text("weightz")
        case "truncate":
            data.write_text("weight")
        case "delete":
            data.unlink()
        case "manifest":
            (newest / checkpoint.MANIFEST).write_text("{}")
        case _:
            (newest / checkpoint.MARKER).unlink()
    told: list[str] = []
    assert checkpoint.newest(tmp_path, told.append) == checkpoint.path_of(tmp_path, 3)
    assert len(told) == 1
    assert "step-10" in told[0]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        make(tmp_path, step)
    assert [checkpoint.step_of(path) for path in checkpoint.listed(tmp_path)] == [9, 10, 100]


def test_when_no_checkpoint_is_good_the_user_is_told_what_to_do(tmp_path: Path) -> None:
    (make(tmp_path, 1) / "data.bin").write_text("x")
    with pytest.raises(CheckpointError, match="fresh=true"):
        checkpoint.newest(tmp_path, lambda text: None)


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, pytest.fail) is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        make(tmp_path, step)
    checkpoint.prune(tmp_path, lambda steps: checkpoint.outdated(steps, 6, 2, {3}))
    assert [checkpoint.step_of(path) for path in checkpoint.listed(tmp_path)] == [3, 5, 6]


def test_what_stands_after_the_newest_one_neither_counts_nor_goes() -> None:
    """Damaged ones say, which a run passed over: they must not crowd out those it writes before it comes there."""
    assert checkpoint.outdated([5, 10, 15, 16, 20, 25], 16, 1, {10}) == [5, 15]


def test_a_step_saved_again_replaces_the_one_before(tmp_path: Path) -> None:
    make(tmp_path, 4, "old")
    folder = make(tmp_path, 4, "new")
    checkpoint.verify(folder)
    assert (folder / "data.bin").read_text() == "new"
    assert len(list((tmp_path / checkpoint.FOLDER).iterdir())) == 1


def test_a_folder_of_another_name_has_no_step(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="step-N"):
        checkpoint.step_of(tmp_path / "last")


def test_a_copied_checkpoint_still_verifies(tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "step-5"
    shutil.copytree(make(tmp_path, 5), copied)
    checkpoint.verify(copied)
    assert copied.is_dir()
