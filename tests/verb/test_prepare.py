"""Prepare makes a data folder that is whole, right and the same each time."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.core.config import groups
from groundup.core.errors import DataError
from groundup.core.split import side
from groundup.corpus.config import Bible, StandardLibrary, Topics
from groundup.corpus.document import Document
from groundup.shard.manifest import Manifest
from groundup.shard.source import Source
from groundup.shard.storage import open_storage
from groundup.tokenizer.config import BPE, Pretrained
from groundup.tokenizer.load import load
from groundup.verb.prepare import differing

Make = Callable[..., Path]
Refused = Callable[..., None]
Tree = Callable[[Path], dict[str, bytes]]

ROOT = Path(__file__).parents[2]


def kept(corpus: Path, stories: list[str]) -> dict[str, list[str]]:
    """What ought to be kept, by source."""
    poem = [text.rstrip() for text in (corpus / "poem.txt").read_text().split("\n\n")]
    return {"stories": stories, "poem": [text for text in poem if text not in stories]}


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


def test_every_document_is_on_its_side_and_nothing_else_is_there(
    corpus: Path, stories: list[str], make: Make, tree: Tree
) -> None:
    folder = make()
    for name, texts in kept(corpus, stories).items():
        sides = {text: side(Document(text, {}).fingerprint, 0, 0.1) for text in texts}
        for split in ("train", "held_out"):
            assert read(folder, split, name) == [text for text in texts if sides[text] == split]
    manifest = Manifest.read(folder)
    assert manifest.verify(folder, "sha256").contents
    assert manifest.tokenizer.digest == load(folder / "tokenizer").digest
    named = {stored.file for stored, _ in manifest.files()}
    others = {"manifest.json", "config.json", "tokenizer/groundup_tokenizer.json"}
    others |= {stored["file"] for stored in manifest.about["questions"].values()}
    assert set(tree(folder)) == named | others
    assert len(manifest.splits["train"]["stories"].shards) > 1


def test_a_document_is_found_again_in_its_file(corpus: Path, make: Make) -> None:
    folder = make()
    source = Source(open_storage(folder), Manifest.read(folder), "train", "stories")
    found = source.document(len(source) // 2)
    line = (corpus / "stories.jsonl").read_text().splitlines()[found.provenance["line"] - 1]
    assert found.provenance["file"] == str(corpus / "stories.jsonl")
    assert found.provenance["hash"] == Document(json.loads(line)["text"], {}).fingerprint


def test_the_same_config_gives_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, make: Make, tree: Tree
) -> None:
    made = [
        make(path=str(tmp_path / name), workers=workers, tokenizer=BPE(vocabulary=512))
        for name, workers in (("one", 1), ("two", 2), ("default", None))
    ]
    trees = [{name: data for name, data in tree(folder).items() if name != "config.json"} for folder in made]
    assert trees[0] == trees[1] == trees[2]


def test_a_tokenizer_is_trained_on_the_training_side_alone(make: Make) -> None:
    folder = make(tokenizer=BPE(vocabulary=512))
    train = read(folder, "train", "stories") + read(folder, "train", "poem")
    alone = BPE(vocabulary=512).build(lambda: iter(train))
    assert load(folder / "tokenizer").digest == alone.digest


def test_what_is_printed_is_what_is_there(
    corpus: Path, capsys: pytest.CaptureFixture[str], stories: list[str], make: Make
) -> None:
    folder = make()
    out = capsys.readouterr().out
    held = Manifest.read(folder).splits
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    for name, texts in kept(corpus, stories).items():
        train, held_out = held["train"][name], held["held_out"][name]
        tokens = train.tokens + held_out.tokens
        assert rows[name][1:3] == [str(len(texts)), str(held_out.documents)]
        assert rows[name][4] == f"{tokens:,}"
        assert rows[name][5] == "1.00"
        assert train.bytes + held_out.bytes == sum(len(text.encode()) for text in texts)
    assert rows["all"][1] == str(sum(map(len, kept(corpus, stories).values())))
    for line in (
        "dropped from stories: 1 exact duplicate (step.duplicate)",
        "dropped from stories: 1 empty (step.length)",
        "dropped from stories: 1 NUL character (step.unicode)",
        "dropped from poem: 1 exact duplicate (step.duplicate)",
        f"prepared {folder} in",
    ):
        assert line in out


@pytest.fixture
def lossy(tmp_path: Path, stories: list[str]) -> Pretrained:
    """A tokenizer that knows no tab."""
    library = Library(models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    library.decoder = decoders.Metaspace(prepend_scheme="never")
    texts = [story.replace("\t", "") for story in stories] + ["Verse of a poem 0123456789"]
    library.train_from_iterator(texts, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    library.save(str(tmp_path / "lossy.json"))
    return Pretrained(path=str(tmp_path / "lossy.json"))


def test_a_lossy_tokenizer_is_an_error_or_a_warning(
    corpus: Path, lossy: Pretrained, capsys: pytest.CaptureFixture[str], make: Make, refused: Refused
) -> None:
    says = r"source\.poem: file .*poem\.txt, line 1: '\\tof a poem' comes back from its ids as 'of a poem'; .*=warning"
    refused(DataError, says, tokenizer=lossy)
    assert not (corpus.parent / "data").exists()
    make(tokenizer=lossy, lossless="warning")
    out = capsys.readouterr().out
    assert "warning: source.poem: " in out
    assert "warning: source.stories" not in out


def test_the_embedded_corpus_becomes_four_million_tokens(tmp_path: Path, make: Make) -> None:
    source = {"bible": Bible(), "topics": Topics(), "stdlib": StandardLibrary()}
    folder = make(source=source, tokenizer=BPE(), shard_tokens=1 << 26)
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
