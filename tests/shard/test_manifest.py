"""A data folder that is not what was written is refused by name, with what to do."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from groundup.core.errors import DataError
from groundup.core.files import atomic_json
from groundup.shard import inspect, manifest
from groundup.shard.manifest import Manifest, Vocabulary, dtype_for


def first(own):
    """The first training shard."""
    return own.manifest.splits["train"]["prose"].shards[0]


def rewrite(own, change):
    """Store a changed manifest with a digest that fits."""
    plain = json.loads((own.path / "manifest.json").read_text())
    del plain["digest"]
    change(plain)
    atomic_json(own.path / "manifest.json", {**plain, "digest": manifest._digest(plain)})


def test_a_manifest_comes_back_as_it_was_written(folder):
    read = Manifest.read(folder.path)
    assert read == folder.manifest
    assert read.digest == folder.manifest.digest
    assert read.about == {"made by": "a test"}


def test_the_digest_stands_for_everything(own):
    other = replace(own.manifest, tokenizer=replace(own.manifest.tokenizer, end=1))
    assert other.digest != own.manifest.digest


@pytest.mark.parametrize("mode", ["auto", "size", "sha256"])
def test_an_undamaged_folder_passes_and_says_what_was_checked(folder, mode):
    verified = folder.manifest.verify(folder.path, mode)
    assert verified.contents == (mode != "size")
    assert verified.files == len(list(folder.manifest.files()))
    assert ("every checksum holds" in str(verified)) == (mode != "size")


def test_above_the_limit_auto_looks_at_sizes_and_says_so(own, monkeypatch):
    monkeypatch.setattr(manifest, "HASHED_BYTES", 10)
    assert "contents not read (verify=sha256 reads them)" in str(own.manifest.verify(own.path))


def test_a_missing_folder_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match=r"none/manifest\.json: there are no shards here; .*`python prepare\.py`"):
        Manifest.read(tmp_path / "none")


def test_a_folder_without_training_text_is_refused(own):
    with pytest.raises(DataError, match=r"holds no other text; .*`python prepare\.py`"):
        own.manifest.holdings("other", str(own.path))


@pytest.mark.parametrize("kind", ["data", "ends", "provenance"])
@pytest.mark.parametrize("mode", ["auto", "size"])
def test_a_truncated_file_is_named_with_both_sizes(own, kind, mode):
    stored = getattr(first(own), kind)
    path = own.path / stored.file
    path.write_bytes(path.read_bytes()[:-2])
    says = rf"{stored.file}: is truncated: {stored.size - 2:,} bytes instead of {stored.size:,}; .*python prepare\.py"
    with pytest.raises(DataError, match=says):
        own.manifest.verify(own.path, mode)


def test_a_file_with_something_behind_it_and_a_missing_one_are_named(own):
    path = own.path / first(own).data.file
    path.write_bytes(path.read_bytes() + b"ab")
    with pytest.raises(DataError, match=r"prose-00000\.bin: is too long"):
        own.manifest.verify(own.path)
    path.unlink()
    with pytest.raises(DataError, match=r"prose-00000\.bin: is missing; .*python prepare\.py"):
        own.manifest.verify(own.path)


@pytest.mark.parametrize("kind", ["data", "ends", "provenance"])
def test_a_flipped_bit_is_found_when_contents_are_read(own, kind):
    stored = getattr(first(own), kind)
    path = own.path / stored.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    own.manifest.verify(own.path, "size")
    with pytest.raises(DataError, match=rf"{stored.file}: is damaged: its checksum differs; .*python prepare\.py"):
        own.manifest.verify(own.path)


def test_a_token_outside_the_vocabulary_is_found(own):
    largest = int(own.row("train", "prose").max())
    rewrite(own, lambda plain: plain["tokenizer"].update(vocabulary=largest))
    with pytest.raises(DataError, match=rf"holds token {largest}, outside the vocabulary of {largest}"):
        Manifest.read(own.path).verify(own.path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plain: plain.update(version=2), "is of format version 2, not 1"),
        (lambda plain: plain.update(format="other"), "is no manifest of shards"),
        (
            lambda plain: plain["tokenizer"].update(dtype="float32"),
            "holds tokens of type float32, not uint16 or uint32",
        ),
        (lambda plain: plain["tokenizer"].update(end=1000), "vocabulary of 1000 with end 1000"),
        (lambda plain: plain["tokenizer"].update(vocabulary=70_000), "which cannot be uint16"),
        (lambda plain: plain["splits"]["train"]["prose"].update(tokens=7), "counts of train prose contradict"),
        (lambda plain: plain["splits"]["train"]["prose"]["shards"][0].update(tokens=7), "counts of train prose"),
        (lambda plain: plain["splits"]["train"]["prose"].pop("shards"), "is damaged .*shards"),
        (lambda plain: plain["splits"]["train"]["prose"].update(shards=3), "is damaged"),
        (lambda plain: plain.pop("tokenizer"), "is damaged .*tokenizer"),
        (lambda plain: plain["tokenizer"].update(vocabulary="many"), "is damaged"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(own, change, says):
    rewrite(own, change)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{says}.*prepare\.py"):
        Manifest.read(own.path)


def test_a_manifest_changed_by_hand_or_cut_is_refused(own):
    path = own.path / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"end": 0', '"end": 1'))
    with pytest.raises(DataError, match="is not as it was written"):
        Manifest.read(own.path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match="is damaged: not JSON"):
        Manifest.read(own.path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.read(own.path)


def test_shards_take_the_smallest_type_that_holds_the_vocabulary():
    assert [dtype_for(n) for n in (257, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_checking_shards_imports_no_torch(folder):
    code = (
        "import sys\n"
        "from groundup.data.config import Shards\n"
        "from groundup.data.opening import Opened\n"
        f"Opened(Shards(path={str(folder.path)!r}, context=16, batch_tokens=64), 'sha256')\n"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_summary_shows_every_source_and_damage_ends_the_command_with_2(own, capsys):
    assert inspect.main([str(own.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        ["train", "prose"],
        ["train", "code"],
        ["train", "notes"],
        ["held_out", "prose"],
        ["held_out", "code"],
    ]
    assert inspect.main([str(own.path), "--split", "held_out"]) == 0
    assert "train" not in capsys.readouterr().out.split("\n", 1)[1]
    (own.path / "manifest.json").unlink()
    assert inspect.main([str(own.path)]) == 2
    assert "prepare.py" in capsys.readouterr().err


def test_any_data_type_of_numpy_that_is_no_shard_type_is_refused(own):
    made = replace(own.manifest, tokenizer=Vocabulary("digest", 1000, 0, str(np.dtype("int64"))))
    made.write(own.path)
    with pytest.raises(DataError, match="tokens of type int64"):
        Manifest.read(own.path)
