"""Laws of writing checkpoints beside training: as if training had waited, in bounded memory, through any stop."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from power import CHANCES, Disk, Recorder, Survivor, stops, tree
from saving import RUN, recorded, save, tensors

from groundup.callback.tensors import read_all
from groundup.callback.writing import Request, Writer
from groundup.core import checkpoint, disk
from groundup.core.errors import StorageError


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorder, dict[int, bytes]]]:
    """What a writer did in five saves, one of them of a step that was there, and deletions; and the manifests."""
    root = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        yield recorded(root, [1, 2, 3, 3, 4], patch.setattr)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory, where that is to be had: hundreds of small trees are written there."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


def test_the_record_of_a_writers_calls_is_the_whole_of_what_it_did(record, place) -> None:
    Disk(record[0].calls).write_to(place)
    assert tree(place) == tree(record[0].root)
    assert {call.name for call in record[0].calls} >= {"make", "create", "write", "sync", "sync_names", "rename"}


def good(record: tuple[Recorder, dict[int, bytes]], place: Path, done: int) -> int | None:
    """The step that the loader finds, which must be as it was written and no older than what was reported by then."""
    recorder, manifests = record
    reported = max((step for count, step in recorder.said if count <= done), default=None)
    found = checkpoint.newest(place / RUN, lambda _: None)
    if found is None:
        assert reported is None
        return None
    step = checkpoint.step_of(found)
    assert reported is None or step >= reported
    assert (found / checkpoint.MANIFEST).read_bytes() == manifests[step]
    return step


def test_a_writer_stopped_at_any_call_leaves_the_newest_checkpoint_it_reported(record, place) -> None:
    for number, (done, calls) in enumerate(stops(record[0].calls)):
        tried = place / str(number)
        tried.mkdir()
        Disk(calls).write_to(tried)
        good(record, tried, done)
        if number % 40 == 0:  # whoever comes next is not disturbed by what it left
            save(Writer(asynchronous=False, alone=True), tried / RUN, 9)
            assert checkpoint.newest(tried / RUN, pytest.fail) == checkpoint.path_of(tried / RUN, 9)
            assert not list((tried / RUN / checkpoint.FOLDER).glob(".*"))
        shutil.rmtree(tried)


@pytest.mark.parametrize("chance", CHANCES, ids="-".join)
def test_a_loss_of_power_at_any_call_leaves_the_newest_checkpoint_that_was_reported(record, place, chance) -> None:
    survivor = Survivor(*chance)
    for number, (done, calls) in enumerate(stops(record[0].calls)):
        if number % 3:  # all of them are in `make proof PART=trainer`
            continue
        tried = place / str(number)
        tried.mkdir()
        Disk(calls).survive(survivor).write_to(tried)
        good(record, tried, done)
        shutil.rmtree(tried)


def test_a_writer_that_forgets_to_sync_would_be_found_out(record, place) -> None:
    """The harness itself: without the calls that sync, something reported is lost."""
    recorder, manifests = record
    careless = [call for call in recorder.calls if call.name not in ("sync", "sync_names")]
    Disk(careless).survive(Survivor("all", "gone")).write_to(place)
    with pytest.raises((AssertionError, checkpoint.CheckpointError)):
        good((Recorder(place, careless, [(0, 4)]), manifests), place, len(careless))


def test_a_checkpoint_written_beside_training_is_that_of_the_moment_it_was_asked_for_byte_by_byte(tmp_path) -> None:
    waits, goes_on = Writer(asynchronous=False, alone=True), Writer(asynchronous=True, alone=True)
    for step in (1, 2):  # the second one into the memory of the first
        state = tensors(step)
        waits.save(Request(tmp_path / "waits", step, state, {}, lambda: None))
        goes_on.save(Request(tmp_path / "goes_on", step, state, {}, lambda: None))
        for tensor in state.values():
            tensor.fill_(7)
        goes_on.wait()
        one, other = (checkpoint.path_of(tmp_path / name, step) for name in ("waits", "goes_on"))
        assert tree(one) == tree(other)
        assert torch.equal(read_all(other)["nets/model.embed"], tensors(step)["nets/model.embed"])
    assert waits.memory == 0
    assert goes_on.memory == sum(tensor.nbytes for tensor in tensors(1).values())


def test_memory_is_used_again_and_follows_what_there_is_to_save(tmp_path) -> None:
    writer = Writer(asynchronous=True, alone=True)
    writer.save(Request(tmp_path, 1, {"a": torch.ones(4), "b": torch.ones(2)}, {}, lambda: None))
    writer.save(Request(tmp_path, 2, {"a": torch.ones(8)}, {}, lambda: None))  # waits for the first
    writer.wait()
    assert writer.memory == 32
    assert [checkpoint.step_of(path) for path in checkpoint.listed(tmp_path)] == [1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_the_disk_refuses_is_told_once_and_the_next_save_goes_on(tmp_path, asynchronous) -> None:
    writer = Writer(asynchronous=asynchronous, alone=True)
    save(writer, tmp_path, 1)
    (tmp_path / checkpoint.FOLDER).rename(tmp_path / "aside")
    (tmp_path / checkpoint.FOLDER).write_text("")  # no folder can be made here
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        save(writer, tmp_path, 2)
    (tmp_path / checkpoint.FOLDER).unlink()
    (tmp_path / "aside").rename(tmp_path / checkpoint.FOLDER)
    writer.wait()
    save(writer, tmp_path, 3)
    assert [checkpoint.step_of(path) for path in checkpoint.listed(tmp_path)] == [1, 3]


def test_a_disk_that_is_full_in_the_midst_of_a_tensor_is_told_of_as_such(tmp_path, monkeypatch) -> None:
    """torch's writer would say that of its file something is wrong."""

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(disk, "write", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
        save(Writer(asynchronous=True, alone=True), tmp_path, 1)
    assert not list((tmp_path / checkpoint.FOLDER).iterdir())  # what filled it is gone
