"""Laws of writing shards: whole or not there, in constant memory, with every document found again."""

import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import DataError, StorageError
from groundup.core.files import checksum
from groundup.shard import provenance
from groundup.shard.manifest import Holding, Manifest
from groundup.shard.writer import Writer


def writer(folder, dtype="uint16", shard_tokens=10**6, vocabulary=1000, end=0, source="text"):
    return Writer(folder, "train", source, dtype, shard_tokens, vocabulary=vocabulary, end=end)


@pytest.mark.parametrize("name", ["prose", "code", "notes"])
def test_documents_stand_one_after_the_other_each_closed_by_end(folder, name):
    stored = b"".join((folder.path / s.data.file).read_bytes() for s in folder.manifest.splits["train"][name].shards)
    assert np.array_equal(np.frombuffer(stored, "<u2"), folder.row("train", name))


def test_a_document_is_never_split_between_shards(folder):
    holding = folder.manifest.splits["train"]["prose"]
    assert len(holding.shards) > 3
    for shard in holding.shards:
        tokens = np.fromfile(folder.path / shard.data.file, "<u2")
        ends = np.fromfile(folder.path / shard.ends.file, "<u8")
        assert ends.tolist() == (np.flatnonzero(tokens == 0) + 1).tolist()
        assert (ends[-1], ends.size) == (tokens.size, shard.documents)
        assert tokens.size - 1500 <= np.diff(ends, prepend=0)[-1], "it was closed by the document that filled it"


def test_counts_and_hashes_are_those_of_the_files(folder):
    for stored, _ in folder.manifest.files():
        path = folder.path / stored.file
        assert (path.stat().st_size, checksum(path)) == (stored.size, stored.sha256)
    for name, documents in folder.contents["train"].items():
        holding = folder.manifest.splits["train"][name]
        assert holding.documents == len(documents)
        assert holding.bytes == sum(2 * ids.size for ids in documents)
        assert holding.tokens == sum(ids.size + 1 for ids in documents)


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path):
    with writer(tmp_path, "uint32", vocabulary=100_000, end=99_999) as made:
        made.add(np.array([70_000, 3]), 5, {})
    assert np.fromfile(tmp_path / "train/text-00000.bin", "<u4").tolist() == [70_000, 3, 99_999]


@pytest.mark.parametrize("ids", [[5, 1000], [-1], [5, 0, 5]])
def test_ids_outside_the_vocabulary_and_ends_inside_a_document_are_refused(tmp_path, ids):
    with pytest.raises(DataError, match="encode it with the tokenizer of these shards"):
        writer(tmp_path).add(np.array(ids), 1, {})


def test_a_source_that_cannot_name_a_file_is_refused(tmp_path):
    for name in ("", "../up", "a/b", ".hidden", "two words"):
        with pytest.raises(DataError, match="cannot name a file"):
            writer(tmp_path, source=name)
    with pytest.raises(ValueError, match="vocabulary"):
        writer(tmp_path, vocabulary=70_000)


def test_nothing_written_makes_no_shard(tmp_path):
    with writer(tmp_path) as made:
        pass
    assert made.close() == []
    assert Holding.of([]) == Holding(0, 0, 0, ())


def test_a_writer_that_fails_leaves_its_finished_shards_and_no_half_made_one(tmp_path):
    with pytest.raises(RuntimeError), writer(tmp_path, shard_tokens=5) as made:
        made.add(np.full(5, 7), 5, {})
        made.add(np.full(2, 7), 2, {})
        raise RuntimeError
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "text-00000.bin",
        "text-00000.idx",
        "text-00000.jsonl.zst",
    ]


def test_a_killed_writer_leaves_no_shard_by_name_and_no_manifest(tmp_path):
    code = (
        "import pathlib, sys, time, numpy as np\n"
        "from groundup.shard.writer import Writer\n"
        f"made = Writer(pathlib.Path({str(tmp_path)!r}), 'train', 'text', 'uint16', 10**9, vocabulary=9, end=0)\n"
        "made.add(np.full(10**6, 7), 1, {})\n"
        "print('half', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [path.name for path in (tmp_path / "train").iterdir() if not path.name.endswith(".tmp")] == []
    with pytest.raises(
        DataError, match=r"manifest\.json: there are no shards here; make them with `python prepare\.py`"
    ):
        Manifest.read(tmp_path)


def test_memory_does_not_grow_with_what_is_written(tmp_path):
    ids = np.random.default_rng(0).integers(1, 1000, 2000)
    with writer(tmp_path, shard_tokens=2_500_000) as made:
        tracemalloc.start()
        try:
            peaks = []
            for _ in range(2):
                tracemalloc.reset_peak()
                for number in range(1024):
                    made.add(ids, 4000, {"record": number})
                peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000
    assert peaks[1] < 2_000_000, "far below the 8 MB written"


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "train").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        writer(tmp_path).add(np.array([1]), 1, {})


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 3 * provenance.FRAME + 1))
def test_every_record_is_found_and_ordinary_tools_read_them_all(tmp_path_factory, many):
    path = tmp_path_factory.getbasetemp() / "records.jsonl.zst"
    with path.open("wb") as file:
        made = provenance.Writer(file)
        for number in range(many):
            made.add({"record": number, "name": "\u00e4\u2028"})
        made.close()
    reader = provenance.Reader(path)
    for number in {0, many // 2, provenance.FRAME - 1, provenance.FRAME, many - 1}:
        if 0 <= number < many:
            assert reader.record(number) == {"record": number, "name": "\u00e4\u2028"}
    with pytest.raises(DataError, match="holds no record"):
        reader.record(many)
    with path.open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read().split(b"\n")
    assert len(lines) == many + 1


def test_damaged_provenance_is_refused(tmp_path):
    path = tmp_path / "records.jsonl.zst"
    for content in (b"", b"short", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as provenance"):
            provenance.Reader(path)
    with pytest.raises(DataError, match="cannot be read as provenance"):
        provenance.Reader(tmp_path / "none")
