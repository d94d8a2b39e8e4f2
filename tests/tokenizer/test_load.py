"""A tokenizer comes back from its folder the same, or not at all."""

import json
from pathlib import Path

import pytest

from groundup.core.errors import DataError
from groundup.tokenizer.config import BPE, Bytes, Pretrained
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.tokenizer.sentence import SentencePiece, fields
from groundup.tokenizer.train import train

TEXT = "Once\n\tupon  a\u2581time, 日本語 </s>"


def test_a_saved_tokenizer_loads_the_same(tmp_path: Path, bpe: Tokenizer, byte_level: Tokenizer) -> None:
    for number, tokenizer in enumerate((bpe, byte_level, Bytes().build(lambda: iter(())))):
        folder = tmp_path / str(number)
        tokenizer.save(folder)
        again = load(folder)
        assert isinstance(again, Tokenizer)
        assert again.digest == tokenizer.digest
        assert again.card() == tokenizer.card() == json.loads((folder / CARD).read_text())
        assert again.encode(TEXT) == tokenizer.encode(TEXT)
        assert Pretrained(path=str(folder)).build(lambda: iter(())).digest == tokenizer.digest


def test_digests_differ_where_mappings_do(code: list[str], bpe: Tokenizer) -> None:
    model = train(BPE(vocabulary=1024), code)
    made = [
        SentencePiece(model, "model", exact=True),
        SentencePiece(model, "model"),
        SentencePiece(model, "model", exact=True, end="<unk>"),
        BPE(vocabulary=1023).build(lambda: iter(code)),
        Bytes().build(lambda: iter(())),
    ]
    assert len({tokenizer.digest for tokenizer in made}) == len(made)
    assert made[0].digest == bpe.digest


def test_the_digest_does_not_see_how_a_model_was_made(code: list[str]) -> None:
    model = train(BPE(vocabulary=1024), code)
    assert {number for number, _ in fields(model)} >= {1, 2, 3}
    pieces = b"".join(_field(number, content) for number, content in fields(model) if number != 2)
    spec = next(content for number, content in fields(model) if number == 2)
    other = pieces + _field(2, spec + b"\x80\x01\x09")  # num_threads (field 16) = 9
    assert other != model
    assert SentencePiece(other, "model", exact=True).digest == SentencePiece(model, "model", exact=True).digest


def _field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_damage_is_named_with_its_file(tmp_path: Path, bpe: Tokenizer, code: list[str]) -> None:
    bpe.save(tmp_path)
    model = tmp_path / "tokenizer.model"
    good, card = model.read_bytes(), (tmp_path / CARD).read_text()
    for content in (good[: len(good) // 2], b"", b"no model", train(BPE(vocabulary=600), code)):
        model.write_bytes(content)
        with pytest.raises(DataError, match=r"tokenizer\.model: .*prepare"):
            load(tmp_path)
    model.unlink()
    with pytest.raises(DataError, match=r"tokenizer\.model: cannot be read"):
        load(tmp_path)
    model.write_bytes(good)
    for text in (card[:40], "[]", "{}", card.replace('"sentencepiece"', '"other"'), card.replace("</s>", "<no>")):
        (tmp_path / CARD).write_text(text)
        with pytest.raises(DataError, match=CARD):
            load(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=CARD):
        load(tmp_path)
