"""Prepare in sampled sets: the same training text in other pieces, and everything else as without."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.shard.manifest import Manifest
from groundup.shard.storage import open_storage
from groundup.tokenizer.config import BPE, Bytes
from groundup.tokenizer.load import load
from groundup.trainer.report import tokens_once, training_texts
from groundup.verb import encode
from groundup.verb.prepare import Prepare

Make = Callable[..., Path]
Refused = Callable[..., None]
Tree = Callable[[Path], dict[str, bytes]]

SAMPLED = {"tokenizer": BPE(vocabulary=600), "sampled_sets": 3, "bpe_dropout": 0.2}


def documents(folder: Path, name: str) -> list[list[int]]:
    """The ids of each training document of a source, straight from the files."""
    found = []
    for shard in Manifest.read(folder).splits["train"][name].shards:
        tokens = np.fromfile(folder / shard.data.file, "<u2")
        ends = np.fromfile(folder / shard.ends.file, "<u8").astype(int)
        found += [part[:-1].tolist() for part in np.split(tokens, ends[:-1])]
    return found


@pytest.fixture
def both(make: Make, tmp_path: Path) -> tuple[Path, Path]:
    """A folder as usual and one in sampled sets."""
    return make(path=str(tmp_path / "usual"), tokenizer=BPE(vocabulary=600)), make(**SAMPLED)


def test_each_set_holds_every_training_text_in_pieces_of_its_own(both: tuple[Path, Path]) -> None:
    usual, folder = both
    tokenizer = load(folder / "tokenizer")
    assert list(Manifest.read(folder).splits["train"]) == [f"{n}~{i}" for n in ("stories", "poem") for i in (1, 2, 3)]
    for name in ("stories", "poem"):
        plain = documents(usual, name)
        sets = [documents(folder, f"{name}~{number}") for number in (1, 2, 3)]
        for made in sets:
            assert [tokenizer.decode(ids) for ids in made] == [tokenizer.decode(ids) for ids in plain]
            assert sum(map(len, made)) > 1.05 * sum(map(len, plain))
        assert sets[0] != sets[1] != sets[2] != sets[0]
    assert Manifest.read(folder).verify(folder, "sha256").contents


def test_held_out_text_questions_and_tokenizer_are_those_of_the_usual_folder(
    both: tuple[Path, Path], tree: Tree
) -> None:
    kept = ("held_out/", "tokenizer/", "evaluation/")
    usual, sampled = ({name: data for name, data in tree(folder).items() if name.startswith(kept)} for folder in both)
    assert usual == sampled
    assert Manifest.read(both[0]).splits["held_out"] == Manifest.read(both[1]).splits["held_out"]


def test_the_usual_folder_says_nothing_of_sampling_and_a_sampled_one_does(both: tuple[Path, Path]) -> None:
    usual, sampled = (Manifest.read(folder).about for folder in both)
    assert set(usual) == {"name", "questions"}
    assert sampled["sampling"] == {"sets": 3, "bpe_dropout": 0.2}


def test_the_same_config_gives_the_same_sets_with_any_workers_and_batches(
    tmp_path: Path, make: Make, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(path=str(tmp_path / "one"), workers=1, **SAMPLED)
    monkeypatch.setattr(encode, "BATCH_BYTES", 700)
    other = make(path=str(tmp_path / "other"), workers=2, **SAMPLED)
    trees = [{name: data for name, data in tree(folder).items() if name != "config.json"} for folder in (one, other)]
    assert trees[0] == trees[1]
    third = make(path=str(tmp_path / "third"), **{**SAMPLED, "sampled_sets": 1})
    assert documents(third, "stories") == documents(one, "stories~1")


def test_what_is_printed_is_a_set_and_says_so(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(**SAMPLED)
    out = capsys.readouterr().out
    splits = Manifest.read(folder).splits
    row = next(line.split() for line in out.splitlines() if line.startswith("stories"))
    assert row[4] == f"{splits['train']['stories~1'].tokens + splits['held_out']['stories'].tokens:,}"
    assert (
        "note: training text is segmented with bpe_dropout=0.2, in 3 sampled sets; tokens are those of the first" in out
    )


def test_a_run_counts_the_sets_as_one_source(make: Make) -> None:
    config = Shards(path=str(make(**SAMPLED)), context=16, batch_tokens=64, micro_batch=4)
    config.check()
    made = config.build(0, Progress(), 500)
    assert [line.split(":")[0] for line in made.describe()[1:3]] == ["stories", "poem"]
    assert all("tokens in the first of 3 sampled sets, read " in line for line in made.describe()[1:3])
    weighed = Shards(path=config.path, context=16, batch_tokens=64, weights={"stories": 1, "poem": 0})
    weighed.check()
    windows = [source.count(16) for source in made.stream.sources][:3]
    read = weighed.build(0, Progress(), 1).stream.epochs(2000)
    assert read == {"stories": pytest.approx(2000 * 3 / sum(windows)), "poem": 0.0}
    with pytest.raises(ConfigError, match=r"data\.weights\.poem~1: is no source .*did you mean poem\?"):
        Shards(path=config.path, context=16, batch_tokens=64, weights={"stories": 1, "poem~1": 1}).check()


def test_a_folder_older_than_the_options_counts_as_made_without_them(make: Make, refused: Refused) -> None:
    tokenizer = BPE(vocabulary=600)
    folder = make(tokenizer=tokenizer)
    record = json.loads((folder / "config.json").read_text())
    for name in ("sampled_sets", "bpe_dropout"):
        del record["identity"][name]
    (folder / "config.json").write_text(json.dumps(record))
    make(tokenizer=tokenizer)
    refused(ConfigError, r"config \(bpe_dropout was 0\.0, is 0\.1\)", tokenizer=tokenizer, bpe_dropout=0.1)


def test_a_report_counts_and_compares_the_text_once(both: tuple[Path, Path]) -> None:
    usual, folder = both
    splits, tokenizer = Manifest.read(folder).splits, load(folder / "tokenizer")
    everything = sum(holding.tokens for holding in splits["train"].values())
    assert tokens_once(Manifest.read(folder)) == pytest.approx(everything / 3, abs=1)
    texts = [list(training_texts(open_storage(place), tokenizer)) for place in (usual, folder)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bpe_dropout": 1.0}, r"^bpe_dropout=1\.0: must be below 1"),
        ({"bpe_dropout": -0.1}, r"^bpe_dropout=-0\.1: must be at least 0"),
        ({"bpe_dropout": 0.1, "sampled_sets": 0}, r"^sampled_sets=0: must be at least 1"),
        ({"sampled_sets": 4}, r"^sampled_sets=4: would all be the same; give bpe_dropout, for instance 0\.1"),
        ({"bpe_dropout": 0.1, "tokenizer": Bytes()}, r"^bpe_dropout=0\.1: this tokenizer \(bytes\) .*tokenizer=bpe"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(
    options: dict[str, object], says: str, prepare: Callable[..., Prepare], corpus: Path
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(**options).check()
    assert "\n" not in str(caught.value)
    assert not (corpus.parent / "data").exists()
