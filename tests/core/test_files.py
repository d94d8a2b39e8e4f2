"""Laws of files that are whole or not there, and of the ranks and the clock."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core import ranks
from groundup.core.errors import ConfigError, DataError, StorageError
from groundup.core.files import atomic_file, atomic_json, atomic_write, checksum, make_folder, read_json
from groundup.core.progress import Progress


def test_a_written_file_holds_what_was_given_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    atomic_write(path, "first")
    atomic_write(path, "zweite \u00e4\n")
    assert path.read_bytes() == "zweite \u00e4\n".encode()
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_a_file_whose_writing_fails_leaves_the_former_one(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_writer_killed_halfway_leaves_the_former_file(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    code = (
        "import sys, time, pathlib\n"
        "from groundup.core.files import atomic_file\n"
        f"with atomic_file(pathlib.Path({str(path)!r})) as file:\n"
        "    file.write(b'new' * 100000); file.flush(); print('half', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert path.read_bytes() == b"old"


def test_a_new_file_is_readable_as_any_other_made_here(tmp_path):
    atomic_write(tmp_path / "one", b"")
    (tmp_path / "two").write_bytes(b"")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


def test_a_place_that_is_no_folder_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.* cannot be written .*; choose another path"):
        atomic_write(tmp_path / "file" / "below", b"")
    with pytest.raises(StorageError, match="cannot be written"):
        make_folder(tmp_path / "file" / "below")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_says_to_free_space(tmp_path):
    with pytest.raises(StorageError, match="free some space"), atomic_file(tmp_path / "file") as file:
        file.write(b"x")
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
    assert not list(tmp_path.iterdir())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\u00e4", max_size=3), inner, max_size=3),
)


@settings(deadline=None, max_examples=25)
@given(plain)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    atomic_json(path, value)
    assert read_json(path) == value


def test_json_that_is_missing_or_damaged_names_the_file_and_the_remedy(tmp_path):
    path = tmp_path / "value.json"
    with pytest.raises(DataError, match=r"value\.json: is missing; do this"):
        read_json(path, "do this")
    for damage in (b"{", b"\xff\xfe", b"[1, 2", b"[" * 100_000):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=r"value\.json: is damaged.*; do this"):
            read_json(path, "do this")


def test_a_checksum_is_the_sha256_of_the_contents(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 10**6)
    assert checksum(tmp_path / "file") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    with pytest.raises(DataError, match="is missing"):
        checksum(tmp_path / "none")


def test_ranks_come_from_the_environment_and_must_make_sense(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world(), ranks.local_rank()) == (0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (ranks.rank(), ranks.world(), ranks.local_rank()) == (3, 4, 1)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match="RANK=4: is not below WORLD_SIZE=4"):
        ranks.rank()
    monkeypatch.setenv("WORLD_SIZE", "zero")
    with pytest.raises(ConfigError, match="WORLD_SIZE=zero: must be a whole number"):
        ranks.world()


def test_the_clock_only_goes_forward():
    assert Progress(1, 8, 64).after(samples=8, tokens=64) == Progress(2, 16, 128)
    assert Progress(1, 8, 64) > Progress()
    with pytest.raises(ValueError, match="negative"):
        Progress(steps=-1)
