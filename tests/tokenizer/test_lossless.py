"""Any text comes back from its ids, and the bytes are counted right, for the two kinds that promise it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundup.tokenizer.config import BPE, Bytes
from groundup.tokenizer.protocol import Tokenizer, lossless
from groundup.tokenizer.sentence import SPACE, SentencePiece
from groundup.tokenizer.train import train

awkward = st.sampled_from(
    [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\n    ",
        SPACE,
        "\u2585",
        "\0",
        "</s>",
        "<unk>",
        "<0x0A>",
        "def ",
        "é",
        "日本",
        "🎉",
        "\ufeff",
    ]
)
texts = st.one_of(st.text(), st.lists(st.one_of(awkward, st.text(max_size=4)), max_size=30).map("".join))


def assert_lossless(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end not in ids
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert [array.tolist() for array in tokenizer.encode_batch([text, "", text])] == [ids, [], ids]


@given(texts)
def test_bytes_give_any_text_back(text: str) -> None:
    assert_lossless(Bytes().build(lambda: iter(())), text)


@given(texts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_byte_pairs_give_any_text_back(bpe: Tokenizer, text: str) -> None:
    assert_lossless(bpe, text)


def test_real_text_comes_back_and_takes_few_ids(bpe: Tokenizer, code: list[str]) -> None:
    bpe.threads = 2
    arrays = bpe.encode_batch(code)
    assert [bpe.decode(array.tolist()) for array in arrays] == code
    assert all(array.dtype == np.int32 for array in arrays)
    assert sum(map(len, arrays)) < sum(len(text.encode()) for text in code) / 2


def test_a_long_text_is_cut_without_any_change_of_ids(code: list[str]) -> None:
    model = train(BPE(vocabulary=1024), code)
    cutting, whole = SentencePiece(model, "model", exact=True), SentencePiece(model, "model")
    for text in ("".join(code), "   ".join(code), "x" * 20_000, " " * 20_000, ("a" * 5_000 + " ") * 3, "\n" * 9_000):
        assert len(text) > 8192
        assert cutting.encode(text) == whole.encode(text)


def test_indentation_and_line_ends_are_pieces(bpe: Tokenizer) -> None:
    assert len(bpe.encode(" " * 8)) == 1
    assert len(bpe.encode(":\n" + " " * 8)) <= 3


def test_digits_stand_alone_unless_told_otherwise(code: list[str]) -> None:
    text = [*code, *(f"in 1999 and {n}" for n in range(1000, 3000))]
    assert len(BPE(vocabulary=1024).build(lambda: iter(text)).encode("1999")) == 4
    assert len(BPE(vocabulary=1024, split_digits=False).build(lambda: iter(text)).encode("1999")) < 4


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(bpe: Tokenizer, text: str) -> None:
    for tokenizer in (bpe, Bytes().build(lambda: iter(()))):
        with pytest.raises(UnicodeEncodeError):
            tokenizer.encode(text)


def test_special_ids_are_nothing_and_broken_bytes_are_marked(bpe: Tokenizer) -> None:
    plain = Bytes().build(lambda: iter(()))
    assert plain.decode([104, 256, 105]) == "hi"
    assert plain.decode([0xE6, 0x97]) == "\ufffd"
    assert bpe.decode([bpe.end, *bpe.encode("hi"), bpe.end]) == "hi"
    assert plain.byte_lengths()[plain.end] == bpe.byte_lengths()[bpe.end] == 0
    assert bpe.byte_lengths().shape == (bpe.vocabulary,)


def test_an_id_outside_the_vocabulary_is_an_error(bpe: Tokenizer) -> None:
    for ids in ([bpe.vocabulary], [-1]):
        with pytest.raises(ValueError, match="ids must lie in"):
            bpe.decode(ids)


def test_lossless_tells_a_tokenizer_that_loses_something(bpe: Tokenizer) -> None:
    class Lowering:
        encode = staticmethod(bpe.encode)

        def decode(self, ids: list[int]) -> str:
            return bpe.decode(ids).lower()

    assert lossless(bpe, "Abc")
    assert not lossless(Lowering(), "Abc")  # type: ignore[arg-type]  # two methods are all it takes
