"""Runs that begin with weights: tuned on a text, or pretrained further; and recipes, composed and run two steps."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import tokenizers
import torch

import groundup.verb.prepare
import groundup.verb.train  # noqa: F401  # they register the groups
from groundup.core.config import compose
from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.interop.folder import export
from groundup.model.config import Encoder
from groundup.model.load import load, read_config, save
from groundup.tokenizer.huggingface import HuggingFace, byte_characters

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
SHAPE = ["model.layers=1", "model.width=32", "model.heads=2", "data.context=64", "data.batch_tokens=512"]
QUICK = ["trainer.compile=false", "trainer.accelerator=cpu", "callback=[checkpoint]"]


def prepared(folder: Path, *overrides: str) -> Path:
    """A data folder."""
    config = composed("prepare", f"path={folder}", "held_out=0.2", *overrides)
    config.check()
    config.run()
    return folder


def trained(runs: Path, *overrides: str) -> Path:
    """A run's folder."""
    config = composed("train", f"runs={runs}", *QUICK, *overrides)
    config.check()
    config.run()
    folder: Path = config.folder()
    return folder


def held_out(folder: Path) -> dict[tuple[int, str], float]:
    """Held-out figures of the log, by step and source."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith("held_out/")]
    return {(int(row["step"]), row["name"].removeprefix("held_out/")): float(row["value"]) for row in rows}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from."""
    place = tmp_path_factory.mktemp("first")
    data = prepared(place / "data", "source=[topics]", "tokenizer.vocabulary=600")
    return trained(place / "runs", f"data.path={data}", "tokens=8192", *SHAPE)


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's own text, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"text": f"Dear {name}, {text[:400]}"}) for name, text in sorted(topics.items())]
    (tmp_path / "letters.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return tmp_path / "letters.jsonl"


TUNE = ["experiment=finetune", "data.batch_tokens=512", "data.context=64", "tokens=2048", "trainer.validate_every=null"]


def test_a_text_goes_on_from_the_weights_of_a_run(first: Path, letters: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "runs", *TUNE, f"model.init_from={first}", "data.path=letters.jsonl")
    config = read_config(run)
    assert (config.layers, config.width, config.heads) == (1, 32, 2)
    assert config.init_from is None
    before, after = load(first).state_dict(), load(run).state_dict()
    assert before.keys() == after.keys()
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 0.05
    figures = held_out(run)
    (data,) = (tmp_path / "data").iterdir()
    assert data.name.startswith("letters-")
    scored = trained(tmp_path / "same", *TUNE, f"model.init_from={first}", f"data.path={data}")
    assert scored.name == run.name
    assert held_out(scored) == figures
    assert "before training" in (run / "report.md").read_text()
    assert figures[0, "all"] < 8


def test_a_plain_text_is_a_paragraph_a_document(first: Path, letters: Path, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("\n\n".join(f"Chapter {name}. {text[:300]}" for name, text in topics.items()))
    run = trained(tmp_path / "runs", *TUNE, f"model.init_from={first}", "data.path=story.txt")
    assert held_out(run)[0, "text"] > 0


def test_weights_of_hugging_face_are_taken_as_they_are(first: Path, letters: Path, tmp_path: Path) -> None:
    export(first, tmp_path / "hf")
    mine = trained(tmp_path / "a", *TUNE, f"model.init_from={first}", "data.path=letters.jsonl")
    theirs = trained(tmp_path / "b", *TUNE, f"model.init_from={tmp_path / 'hf'}", "data.path=letters.jsonl")
    assert held_out(theirs)[0, "all"] == pytest.approx(held_out(mine)[0, "all"], rel=1e-6)
    again = trained(tmp_path / "b", *TUNE, f"model.init_from={tmp_path / 'hf'}", "data.path=letters.jsonl")
    assert again == theirs


def test_continued_pretraining_shows_what_is_forgotten(first: Path, letters: Path, tmp_path: Path) -> None:
    tokenizer = ["tokenizer=pretrained", f"tokenizer.path={first / 'tokenizer'}"]
    sources = ["source=[jsonl,topics]", f"source.jsonl.path={letters}"]
    data = prepared(tmp_path / "more", *sources, *tokenizer)
    mixture = ["+data.weights={jsonl: 0.8, topics: 0.2}", "data.batch_tokens=512", "data.context=64"]
    begin = [f"model.init_from={first}", f"data.path={data}", "tokens=4096"]
    run = trained(tmp_path / "runs", "experiment=continue", *mixture, *begin)
    figures = held_out(run)
    assert {source for step, source in figures if step == 0} == {"jsonl", "topics", "all"}
    logged = json.loads((run / "report.json").read_text())
    assert logged["held_out_first"].keys() == logged["held_out"].keys()


def test_a_stopped_run_goes_on_without_what_it_began_with(first: Path, letters: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(first, tmp_path / "begin")
    options = [*TUNE, f"model.init_from={tmp_path / 'begin'}", "data.path=letters.jsonl", "callback.checkpoint.every=1"]
    whole = trained(tmp_path / "whole", *options)
    trained(tmp_path / "parts", *options, "stop_steps=2")
    parts = trained(tmp_path / "parts", *options)
    one, other = (load(folder).state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_begun_with_is_refused(first: Path, letters: Path, tmp_path: Path) -> None:
    other = prepared(tmp_path / "other", "source=[topics]", "tokenizer=bytes")
    (tmp_path / "letters.doc").write_text("x")
    for error, says, overrides in (
        (CheckpointError, "is not a folder", ["model.init_from=nowhere", "data.path=letters.jsonl"]),
        (CheckpointError, "holds no model", [f"model.init_from={tmp_path}", "data.path=letters.jsonl"]),
        (ConfigError, "another tokenizer", [f"model.init_from={first}", f"data.path={other}"]),
        (ConfigError, r"prepare it first: python prepare\.py", ["data.path=letters.jsonl"]),
        (ConfigError, "no known kind", [f"model.init_from={first}", "data.path=letters.doc"]),
    ):
        with pytest.raises(error, match=says) as caught:
            trained(tmp_path / "runs", *TUNE, *overrides)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["<pad>", "[MASK]"], r"set objective\.mask_id=258, the tokenizer's \[MASK\]"),
        (["<pad>", "<odd>"], r"set objective\.mask_id=one of the ids that no text is made of \(257 <pad>, 258 <odd>\)"),
        ([], "begin with a network that has some, or with random weights"),
    ],
)
def test_a_network_without_a_spare_id_for_a_mask_is_told_what_may_be_one(
    names: list[str], remedy: str, letters: Path, tmp_path: Path
) -> None:
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(dict(zip(byte_characters().values(), range(256), strict=True)), [])
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(["</s>", *names])
    tokenizer = HuggingFace(library.to_str(), "here")
    config = Encoder(layers=1, width=16, heads=2, context=64, vocabulary=257 + len(names))
    save(config.build(), config, tmp_path / "bert")
    tokenizer.save(tmp_path / "bert" / "tokenizer")
    begin = [*TUNE, *QUICK, "model=encoder", "objective=masked", f"model.init_from={tmp_path / 'bert'}"]
    with pytest.raises(
        ConfigError, match=rf"init_from=.*: has 0 ids behind .* objective=masked needs 1 more; {remedy}$"
    ):
        composed("train", *begin, f"data.path={letters}").check()
    if names:
        composed("train", *begin, f"data.path={letters}", "objective.mask_id=258").check()
        with pytest.raises(ConfigError, match=r"mask_id=65: is a piece that text is made of, '.'; give"):
            composed("train", *begin, f"data.path={letters}", "objective.mask_id=65").check()


def test_gpt2s_recipe_trains_two_steps(first: Path, tmp_path: Path) -> None:
    data = first.parents[2] / "data"
    small = ["model.layers=1", "model.width=32", "model.heads=2", "model.context=64", "model.vocabulary=600"]
    steps = ["data.batch_tokens=512", "data.context=64", "data.micro_batch=4", "data.workers=0", "stop_steps=2"]
    trained(tmp_path, "experiment=gpt2-124m", f"data.path={data}", *small, *steps)
    config = composed("train", "experiment=gpt2-124m")
    assert config.tokens // config.data.batch_tokens == 18_865
    assert config.model.positions == "learned"
    source = composed("prepare", "source=[fineweb_edu]").source["fineweb_edu"]
    assert (source.kind, source.path, source.part) == ("hub", "HuggingFaceFW/fineweb-edu", "sample-10BT")


def test_rows_of_a_data_set_are_documents(letters: Path, tmp_path: Path) -> None:
    options = ["source=[hub]", "source.hub.path=json", f"source.hub.files=[{letters}]", "source.hub.streaming=true"]
    data = prepared(tmp_path / "hub", *options, "source.hub.documents=50", "tokenizer=bytes")
    plain = prepared(tmp_path / "plain", "source=[jsonl]", f"source.jsonl.path={letters}", "tokenizer=bytes")
    counts = [sum(held["documents"] for held in _holdings(folder)) for folder in (data, plain)]
    assert counts[0] == 50 < counts[1]
    with pytest.raises(DataError, match="has no column words; give column"):
        prepared(tmp_path / "bad", *options, "source.hub.column=words", "tokenizer=bytes")


def _holdings(folder: Path) -> list[dict[str, Any]]:
    splits = json.loads((folder / "manifest.json").read_text())["splits"]
    return [held for sources in splits.values() for held in sources.values()]
