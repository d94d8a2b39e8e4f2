"""Laws of remote data folders: fetched once, checked, bounded, read ahead, and read like local ones."""

import pickle
import shutil
import threading

import fsspec
import numpy as np
import pytest

from groundup.core.errors import DataError
from groundup.shard.manifest import Manifest
from groundup.shard.mixture import Mixture
from groundup.shard.source import Source
from groundup.shard.storage import Local, Remote, open_storage
from groundup.shard.stream import Stream
from groundup.shard.weights import parse


@pytest.fixture
def url(folder, request):
    """The folder in fsspec's memory."""
    system, place = fsspec.filesystem("memory"), f"/{request.node.name}"
    system.put(str(folder.path), place, recursive=True)
    yield f"memory:/{place}"
    system.rm(place, recursive=True)


def kept(cache):
    """The files that a cache holds, with their sizes."""
    return {path.name: path.stat().st_size for path in cache.rglob("[!.]*") if path.is_file()}


def test_a_remote_folder_reads_like_a_local_one(folder, url, tmp_path):
    storage = open_storage(url, tmp_path / "cache")
    read = Manifest.read(storage)
    assert read == folder.manifest
    assert not read.verify(storage).contents, "auto does not fetch everything"
    assert read.verify(storage, "sha256").contents
    for name in folder.contents["train"]:
        source, local = Source(storage, read, "train", name), folder.source("train", name)
        windows = np.arange(source.count(64))
        assert np.array_equal(source.windows(windows, 64), local.windows(windows, 64))
        assert source.document(70) == local.document(70)


def test_a_file_is_fetched_once_and_found_by_the_next_process(folder, url, tmp_path):
    storage = open_storage(url, tmp_path)
    stored = folder.manifest.splits["train"]["prose"].shards[0].data
    path = storage.path(stored.file, stored.size, stored.sha256)
    fsspec.filesystem("memory").rm(f"{url.removeprefix('memory:/')}/{stored.file}")
    again = pickle.loads(pickle.dumps(storage))
    assert again.path(stored.file, stored.size, stored.sha256) == path
    assert path.read_bytes() == (folder.path / stored.file).read_bytes()


def test_the_cache_stays_below_its_limit_and_drops_what_was_used_longest_ago(folder, url, tmp_path):
    shards = folder.manifest.splits["train"]["prose"].shards[:4]
    limit = sum(shard.data.size for shard in shards[:3])
    storage = Remote(url, tmp_path, limit)
    for shard in (*shards[:3], shards[0], shards[3]):
        storage.path(shard.data.file, shard.data.size, shard.data.sha256)
        assert sum(kept(tmp_path).values()) <= limit
    names = [shard.data.file.split("/")[1] for shard in shards]
    assert names[0] in kept(tmp_path)
    assert names[3] in kept(tmp_path)
    assert names[1] not in kept(tmp_path)


def test_a_stream_is_the_same_through_a_cache_smaller_than_the_data(folder, url, tmp_path):
    storage = Remote(url, tmp_path, 12_000)
    far = [Source(storage, folder.manifest, "train", name) for name in folder.contents["train"]]
    mixture = Mixture(parse({}, {source.name: source.count(16) for source in far}))
    made = Stream(far, mixture, 3, 16, 0, shuffle_tokens=500)
    near = Stream(folder.sources(), mixture, 3, 16, 0, shuffle_tokens=500)
    assert sum(source.tokens * 2 for source in far) > 12_000
    for first in range(0, 600, 60):
        samples = np.arange(first, first + 60)
        assert np.array_equal(made.tokens(samples), near.tokens(samples))
        assert sum(kept(tmp_path).values()) <= 12_000


def test_shards_that_will_be_wanted_are_fetched_in_the_background(folder, url, tmp_path):
    storage = Remote(url, tmp_path, 10**6)
    source = Source(storage, folder.manifest, "train", "prose")
    source.ahead(np.array([0, len(source) - 1]))
    storage._wanted.join()
    shards = folder.manifest.splits["train"]["prose"].shards
    assert set(kept(tmp_path)) == {shard.data.file.split("/")[1] for shard in (shards[0], shards[-1])}


def test_what_cannot_be_fetched_ahead_fails_only_when_it_is_needed(url, tmp_path):
    storage = Remote(url, tmp_path, 10**6)
    storage.ahead([("train/none.bin", 5, "x")])
    storage._wanted.join()
    with pytest.raises(DataError, match=r"memory://.*train/none\.bin: is missing; check the URL"):
        storage.path("train/none.bin", 5, "x")


def test_processes_that_want_the_same_file_at_once_get_it_whole(folder, url, tmp_path):
    stored = folder.manifest.splits["train"]["prose"].shards[0].data
    found = []

    def fetch():
        found.append(Remote(url, tmp_path, 10**6).path(stored.file, stored.size, stored.sha256).read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(folder.path / stored.file).read_bytes()] * 8


def test_damage_on_the_way_is_found_and_nothing_of_it_kept(folder, url, tmp_path):
    system, place = fsspec.filesystem("memory"), url.removeprefix("memory:/")
    stored = folder.manifest.splits["train"]["prose"].shards[0].data
    content = bytearray((folder.path / stored.file).read_bytes())
    content[9] ^= 4
    system.pipe_file(f"{place}/{stored.file}", bytes(content))
    storage = Remote(url, tmp_path, 10**6)
    with pytest.raises(DataError, match=r"prose-00000\.bin: is damaged.*checksum differs"):
        storage.path(stored.file, stored.size, stored.sha256)
    system.pipe_file(f"{place}/{stored.file}", bytes(content[:-2]))
    with pytest.raises(DataError, match=r"prose-00000\.bin: has another size"):
        storage.path(stored.file, stored.size, stored.sha256)
    with pytest.raises(DataError, match=r"prose-00000\.bin: is truncated"):
        folder.manifest.verify(storage)
    assert kept(tmp_path) == {}


def test_a_shard_larger_than_the_cache_is_refused(folder, url, tmp_path):
    stored = folder.manifest.splits["train"]["prose"].shards[0].data
    with pytest.raises(DataError, match=r"is larger .* than the cache may be .*; allow a larger cache"):
        Remote(url, tmp_path, 10).path(stored.file, stored.size, stored.sha256)


def test_a_missing_remote_folder_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match=r"memory://nowhere/manifest\.json: there are no shards here; .*prepare\.py"):
        Manifest.read(open_storage("memory://nowhere", tmp_path))


def test_an_unknown_kind_of_url_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nosuch://bucket: cannot be opened .*; install what it names"):
        open_storage("nosuch://bucket", tmp_path)


def test_local_folders_and_file_urls_are_used_in_place(folder, monkeypatch, tmp_path):
    for place in (folder.path, str(folder.path), f"file://{folder.path}"):
        storage = open_storage(place)
        assert isinstance(storage, Local)
        assert Manifest.read(storage) == folder.manifest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(open_storage("memory://x")._cache).startswith(str(tmp_path / "groundup"))


def test_a_shard_that_vanished_or_shrank_after_the_check_is_named(own):
    source = own.source("train", "prose")
    path = own.path / own.manifest.splits["train"]["prose"].shards[0].data.file
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"prose-00000\.bin: is truncated"):
        source.windows(np.array([0]), 16)
    shutil.rmtree(own.path / "train")
    with pytest.raises(DataError, match=r"prose-00000\.bin: is missing; .*prepare\.py"):
        source.windows(np.array([0]), 16)
