"""Files of ids of every form become the same shards, and what is no such file is told in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from groundup.core.errors import DataError, StorageError
from groundup.core.split import fingerprint, side
from groundup.data.config import Shards
from groundup.interop import token_file
from groundup.interop.__main__ import main
from groundup.interop.place import made
from groundup.interop.shards import Options, convert
from groundup.interop.token_file import recognise
from groundup.shard.manifest import Manifest
from groundup.shard.storage import open_storage
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import Tokenizer
from groundup.trainer.report import training_texts

TEXTS = sorted(topics.values())[:40]
Write = Callable[[Path, Sequence[Sequence[int]], int], Path]


def nanogpt(folder: Path, documents: Sequence[Sequence[int]], end: int) -> Path:
    """As nanoGPT's prepare.py writes: each document, then the end."""
    path = folder / "train.bin"
    np.array([i for ids in documents for i in [*ids, end]], dtype=np.uint16).tofile(path)
    return path


def llmc(folder: Path, documents: Sequence[Sequence[int]], end: int, magic: int = 20240520) -> Path:
    """As llm.c's and modded-nanogpt's: a header, then each document behind the end of the one before."""
    path = folder / "train_000001.bin"
    ids = np.array([i for ids in documents for i in [end, *ids]], dtype=np.uint16 if magic == 20240520 else np.uint32)
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, 1, len(ids)
    path.write_bytes(header.tobytes() + ids.tobytes())
    return path


def megatron(folder: Path, documents: Sequence[Sequence[int]], end: int, code: int = 8, halves: bool = False) -> Path:
    """As Megatron-LM's preprocess_data.py with --append-eod: an index of sequences, documents made of them."""
    path = folder / "web_text_document.bin"
    dtype = np.dtype({8: "<u2", 4: "<i4"}[code])
    sequences, borders = [], [0]
    for ids in documents:
        closed = [*ids, end]
        middle = len(closed) // 2
        sequences += [closed[:middle], closed[middle:]] if halves else [closed]
        borders.append(len(sequences))
    lengths = np.array([len(sequence) for sequence in sequences])
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * dtype.itemsize
    np.concatenate([np.array(sequence) for sequence in sequences]).astype(dtype).tofile(path)
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(borders))
    arrays = (lengths.astype("<i4"), begins.astype("<i8"), np.array(borders, dtype="<i8"))
    path.with_suffix(".idx").write_bytes(header + b"".join(array.tobytes() for array in arrays))
    return path


def datatrove(folder: Path, documents: Sequence[Sequence[int]], end: int, width: int = 2) -> Path:
    """As datatrove's DocumentTokenizer: ids, the ends of the documents, and a line on the tokenizer."""
    path = folder / "00000_unshuffled.ds"
    closed = [[*ids, end] for ids in documents]
    np.array([i for ids in closed for i in ids], dtype=f"<u{width}").tofile(path)
    ends = np.cumsum([len(ids) for ids in closed])
    path.with_name(f"{path.name}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends.tolist()))
    path.with_name(f"{path.name}.metadata").write_text(f"tokenizer|{width}\n{ends[-1]}\n1.2 k")
    return path


FORMS: dict[str, Write] = {
    "nanoGPT": nanogpt,
    "llm.c": llmc,
    "llm.c, four bytes": lambda folder, documents, end: llmc(folder, documents, end, 20240801),
    "Megatron": megatron,
    "Megatron, four bytes": lambda folder, documents, end: megatron(folder, documents, end, 4),
    "Megatron, two sequences a document": lambda folder, documents, end: megatron(folder, documents, end, 8, True),
    "datatrove": datatrove,
    "datatrove, four bytes": lambda folder, documents, end: datatrove(folder, documents, end, 4),
}


@pytest.fixture
def saved(bpe: Tokenizer, tmp_path: Path) -> Path:
    bpe.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("form", FORMS)
def test_the_documents_of_a_file_become_those_of_the_shards(
    form: str, bpe: Tokenizer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK", 1000)  # documents then lie across the borders of blocks
    path = FORMS[form](tmp_path, [bpe.encode(text) for text in TEXTS], bpe.end)
    assert recognise(path, 2).form == form.partition(",")[0]
    manifest = convert([path], saved, tmp_path / "data", Options(held_out=0.2, shard_tokens=3000, bare=2))
    assert Manifest.read(tmp_path / "data") == manifest
    assert manifest.verify(tmp_path / "data", "sha256").contents
    kept = [text for text in TEXTS if side(fingerprint(text), 0, 0.2) == "train"]
    assert 0 < len(kept) < len(TEXTS)
    assert list(training_texts(open_storage(tmp_path / "data"), bpe)) == kept
    held = manifest.splits["train"]["tokens"]
    assert (held.documents, held.bytes) == (len(kept), sum(len(text.encode()) for text in kept))
    assert len(held.shards) > 1


def test_an_index_may_be_given_for_its_file(bpe: Tokenizer, tmp_path: Path) -> None:
    ids = [bpe.encode(text) for text in TEXTS]
    assert recognise(megatron(tmp_path, ids, bpe.end).with_suffix(".idx")).form == "Megatron"
    path = datatrove(tmp_path, ids, bpe.end)
    assert recognise(path.with_name(f"{path.name}.index")).path == path


def test_a_document_that_goes_on_in_the_next_file_is_one_document(bpe: Tokenizer, saved: Path, tmp_path: Path) -> None:
    whole = [i for text in TEXTS for i in [bpe.end, *bpe.encode(text)]]
    files, border = [], len(whole) // 3
    for number, part in enumerate((whole[:border], whole[border : 2 * border], whole[2 * border :])):
        assert number == 0 or part[0] != bpe.end
        header = np.zeros(256, dtype=np.int32)
        header[:3] = 20240520, 1, len(part)
        files.append(tmp_path / f"train_{number:06d}.bin")
        files[-1].write_bytes(header.tobytes() + np.array(part, dtype=np.uint16).tobytes())
    convert(files, saved, tmp_path / "data", Options(held_out=0.0))
    assert list(training_texts(open_storage(tmp_path / "data"), bpe)) == TEXTS


def test_another_piece_may_end_documents(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    gpt2 = tokenizers["gpt2"]
    gpt2.save(tmp_path / "gpt2")
    the = gpt2.encode("the")[0]
    path = nanogpt(tmp_path, [gpt2.encode("abc"), gpt2.encode("de")], the)
    convert([path], tmp_path / "gpt2" / "tokenizer.json", tmp_path / "data", Options(held_out=0, end="the", bare=2))
    kept = load(tmp_path / "data" / "tokenizer")
    assert kept.end == the
    assert list(training_texts(open_storage(tmp_path / "data"), kept)) == ["abc", "de"]


def test_two_at_once_do_not_harm_each_other(bpe: Tokenizer, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"), made(tmp_path / "data") as place:
        (place / "mine").touch()
        with made(tmp_path / "data") as other:
            (other / "theirs").touch()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tokenizer"]


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def without(path: Path, suffix: str) -> Path:
    path.with_name(path.name.removesuffix(".bin") + suffix).unlink()
    return path


def longer(path: Path) -> Path:
    path.write_bytes(path.read_bytes() + bytes(60))
    return path


SPOILED: dict[str, tuple[Callable[[Path, list[list[int]], int], Path], str]] = {
    "another kind of file": (lambda p, d, e: p / "tokens.npy", r"tokens\.npy: is no file of ids .*; give a \.bin"),
    "no such file": (lambda p, d, e: p / "none.bin", r"none\.bin: is missing; give the file with the ids"),
    "an odd byte": (lambda p, d, e: cut(nanogpt(p, d, e), 1001), r"train\.bin: is damaged: 1,001 bytes are no whole"),
    "a short llm.c": (lambda p, d, e: cut(llmc(p, d, e), 3000), r"is damaged: its header speaks of .* ids"),
    "a short Megatron": (lambda p, d, e: cut(megatron(p, d, e), 1000), r"its index is another file's: 500 ids here"),
    "a long Megatron": (lambda p, d, e: longer(megatron(p, d, e)), r"its index is another file's: .* ids here and"),
    "a missing index": (
        lambda p, d, e: without(megatron(p, d, e), ".idx").with_suffix(".idx"),
        r"document\.idx: is missing; .*keep its index beside it",
    ),
    "a short index": (
        lambda p, d, e: cut(megatron(p, d, e).with_suffix(".idx"), 90),
        r"document\.idx: is damaged, or holds no integers \(type 8\)",
    ),
    "another index": (
        lambda p, d, e: (nanogpt(p, d, e), (p / "train.idx").write_bytes(b"x" * 99))[0],
        r"train\.idx: is no Megatron index; .*or remove it",
    ),
    "a short datatrove": (lambda p, d, e: cut(datatrove(p, d, e), 1000), r"another file's: 1,000 bytes here"),
    "a long datatrove": (lambda p, d, e: longer(datatrove(p, d, e)), r"its index is another file's"),
    "no datatrove index": (
        lambda p, d, e: (datatrove(p, d, e), (p / "00000_unshuffled.ds.index").unlink())[0],
        r"unshuffled\.ds\.index: is missing; .*keep its index beside it",
    ),
    "an empty datatrove index": (
        lambda p, d, e: (datatrove(p, d, e), (p / "00000_unshuffled.ds.index").write_bytes(b""))[0],
        r"unshuffled\.ds\.index: is damaged: no whole number",
    ),
    "ids of another tokenizer": (
        lambda p, d, e: nanogpt(p, [*d, [7, 5000]], e),
        r"train\.bin: holds an id outside the tokenizer's 1200, in the document at .*give the tokenizer that made",
    ),
    "another end of documents": (
        lambda p, d, e: nanogpt(p, d, 700),
        r"train\.bin: holds no end of a document \(id 1\) .*or the piece that ends a document",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_no_such_file_is_told_and_nothing_is_made(
    case: str, bpe: Tokenizer, saved: Path, tmp_path: Path
) -> None:
    spoil, named = SPOILED[case]
    path = spoil(tmp_path, [bpe.encode(text) for text in TEXTS], bpe.end)
    with pytest.raises(DataError, match=named):
        convert([path], saved, tmp_path / "new" / "data", Options(bare=2))
    assert not (tmp_path / "new").exists()


def test_the_command_line_makes_a_folder_to_train_on(
    bpe: Tokenizer, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nanogpt(tmp_path, [bpe.encode(text) for text in TEXTS], bpe.end)
    line = ["tokens", str(path), str(tmp_path / "data"), "--tokenizer", str(saved), "--held-out", "0.3"]
    assert main(line) == 2
    assert "train.bin: has neither an index (.idx) beside it nor a header" in capsys.readouterr().err
    assert main([*line, "--bare", "2", "--held-out", "1.5"]) == 2
    assert capsys.readouterr().err.startswith("error: held-out=1.5: is no share of the documents; ")
    line += ["--bare", "2"]
    assert main(line) == 0
    assert "held out, for data.path=" in capsys.readouterr().out
    assert Shards(path=str(tmp_path / "data"), context=16, batch_tokens=64).check().tokenizer.digest == bpe.digest
    assert main(line) == 2
    assert "data: holds something already; give a new folder" in capsys.readouterr().err
    with pytest.raises(StorageError):
        convert([path], saved, tmp_path / "data", Options(bare=2))
