"""Prepare on a folder that is there already: finished, changed, damaged, half made or someone else's."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.core.errors import ConfigError, DataError, StorageError
from groundup.corpus.config import Length, Unicode
from groundup.shard.manifest import Manifest

Make = Callable[..., Path]
Refused = Callable[..., None]
Tree = Callable[[Path], dict[str, bytes]]


def test_a_finished_folder_is_left_alone(capsys: pytest.CaptureFixture[str], make: Make) -> None:
    folder = make()
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make(workers=1)
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_another_config_is_refused_and_fresh_replaces(make: Make, tree: Tree, refused: Refused) -> None:
    folder = make()
    before = tree(folder)
    refused(ConfigError, r"data: holds data .*held_out was 0\.1, is 0\.2.*fresh=true", held_out=0.2)
    steps = {"unicode": Unicode(), "length": Length(shortest=20)}
    says = r"step\.length\.shortest was 1, is 20, step\.duplicate is gone"
    refused(ConfigError, says, step=steps)
    assert tree(folder) == before
    make(held_out=0.0, step=steps, fresh=True)
    assert set(Manifest.read(folder).splits["held_out"]) == set()
    assert not (folder / "held_out").exists()
    assert Manifest.read(folder).verify(folder, "sha256").contents


def test_changed_input_is_told_and_missing_input_is_noted(
    corpus: Path, capsys: pytest.CaptureFixture[str], make: Make, refused: Refused
) -> None:
    make()
    (corpus / "poem.txt").write_text("another\n\npoem")
    refused(DataError, r"source\.poem: has changed since .*fresh=true")
    (corpus / "poem.txt").unlink()
    make()
    out = capsys.readouterr().out
    assert "note: source.poem is no longer there" in out
    assert "is complete" in out


def test_a_damaged_folder_is_told_not_passed_over(make: Make, refused: Refused) -> None:
    folder = make()
    shard = folder / Manifest.read(folder).splits["train"]["poem"].shards[0].data.file
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    for damaged in (bytes(data), bytes(data[:-4])):
        shard.write_bytes(damaged)
        refused(DataError, rf"{shard.name}.*fresh=true")
    make(fresh=True)
    make()


DEADLY = """
import dataclasses, os, signal, sys
from groundup.core.config import option, schema
from groundup.corpus.config import JsonLines
from groundup.tokenizer.config import Bytes
from groundup.verb import encode
from groundup.verb.prepare import Prepare

encode.BATCH_BYTES = 1000

@schema("source", "deadly")
class Deadly:
    path: str = option()
    in_pass: int = option(1)
    def build(self):
        self.source, self.passes = JsonLines(path=self.path).build(), 0
        return self
    def check(self):
        self.source.check()
    def stamp(self):
        return self.source.stamp()
    def documents(self):
        self.passes += 1
        for number, document in enumerate(self.source.documents()):
            if number == 150 and self.passes == self.in_pass:
                os.kill(os.getpid(), signal.SIGKILL)
            yield document

path, corpus, in_pass, fresh = sys.argv[1:]
source = {"stories": Deadly(path=corpus, in_pass=int(in_pass))}
Prepare(path=path, source=source, tokenizer=Bytes(), shard_tokens=2048, fresh=fresh == "fresh").run()
"""


def killed(corpus: Path, in_pass: int, fresh: str = "") -> None:
    """Prepare in a process that is killed in a pass over the stories: 1 only reads, 2 writes."""
    paths = [str(corpus.parent / "data"), str(corpus / "stories.jsonl")]
    done = subprocess.run([sys.executable, "-c", DEADLY, *paths, str(in_pass), fresh], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_run_leaves_nothing_that_looks_whole_and_the_next_one_is_whole(corpus: Path, make: Make) -> None:
    folder = corpus.parent / "data"
    killed(corpus, 1)
    assert not folder.exists()
    killed(corpus, 2)
    assert [path.name for path in folder.iterdir()] == [".partial"]
    assert any(path.name.endswith(".bin") for path in (folder / ".partial/train").iterdir())
    with pytest.raises(DataError, match=r"prepare\.py"):
        Manifest.read(folder)
    make()
    assert not (folder / ".partial").exists()
    assert Manifest.read(folder).verify(folder, "sha256").contents


def test_what_was_whole_stays_whole_until_the_new_is(corpus: Path, make: Make, tree: Tree) -> None:
    folder = make()
    before = tree(folder)
    killed(corpus, 2, "fresh")
    assert {name: data for name, data in tree(folder).items() if not name.startswith(".partial")} == before
    make()
    make(seed=1, fresh=True)
    assert {name.split("/")[0] for name in tree(folder)} == {name.split("/")[0] for name in before}
    assert tree(folder) != before


def test_a_folder_left_between_two_states_is_made_anew(make: Make, tree: Tree) -> None:
    folder = make()
    whole = tree(folder)
    for gone in (["manifest.json"], ["manifest.json", "train"], ["manifest.json", "tokenizer", "train", "held_out"]):
        for name in gone:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        make()
        assert tree(folder) == whole


def test_two_cannot_write_one_folder_at_once(corpus: Path, make: Make, refused: Refused) -> None:
    place = corpus.parent / "data/.partial"
    place.mkdir(parents=True)
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused(StorageError, r"another prepare\.py is writing it")
    os.close(lock)
    make()


def test_a_folder_with_other_files_is_never_touched(corpus: Path, make: Make, refused: Refused) -> None:
    for fresh in (False, True):
        refused(ConfigError, r"path=.*corpus: holds other files", path=str(corpus), fresh=fresh)
    refused(StorageError, r"poem\.txt is a file", path=str(corpus / "poem.txt"))
    refused(StorageError, r"poem\.txt is a file", path=str(corpus / "poem.txt/data"))
    (corpus / "config.json").write_text('{"model_type": "gpt2"}')
    refused(ConfigError, "holds other files", path=str(corpus))
    (corpus.parent / "data").mkdir()
    folder = make()
    (folder / "notes").write_text("mine")
    make(fresh=True)
    assert (folder / "notes").read_text() == "mine"
