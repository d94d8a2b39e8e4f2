"""An exported tokenizer gives the same ids and text as ours, on whatever text."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from tokenizers import Tokenizer as Library

import groundup.verb.train
from groundup.core.errors import DataError
from groundup.interop.tokenizer_json import description
from groundup.tokenizer.huggingface import byte_characters, from_gpt2
from groundup.tokenizer.protocol import Tokenizer
from groundup.tokenizer.sentence import SentencePiece

KINDS = ("bpe", "bytes", "gpt2")
AWKWARD = [
    "",
    " ",
    "     ",
    "\n\n\t  \n",
    "a▁b ▁ ▁▁",
    "</s> <unk> <|end|> <|endoftext|> <0x41>",
    "日本語 🙂 e\u0301 \u200d",
    "aaaaaaaaaaaaa" * 7,
    "-" * 79,
    "\0\x01\x7f",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of characters from all of Unicode but surrogates, and of a few that meet often."""
    draw = random.Random(seed)
    few = " \n\taeiou.,-()▁é日"

    def character() -> str:
        if draw.random() < 0.6:
            return draw.choice(few)
        while 0xD800 <= (code := draw.randrange(0x110000 if draw.random() < 0.5 else 0x3000)) < 0xE000:
            pass
        return chr(code)

    return ["".join(character() for _ in range(draw.randrange(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_the_same(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    ours = tokenizers[kind]
    library = Library.from_str(description(ours, "here").text)
    library.encode_special_tokens = True
    code = inspect.getsource(groundup.verb.train)
    for text in [*AWKWARD, *topics.values(), code, *random_texts(2000)]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text)
        assert library.decode(ids) == ours.decode(ids)


def test_the_piece_that_ends_a_document_stands_before_a_text(tokenizers: dict[str, Tokenizer]) -> None:
    for ours in tokenizers.values():
        library = Library.from_str(description(ours, "here").text)
        assert library.encode("the").ids == [ours.end, *ours.encode("the")]
        assert library.decode(library.encode("the").ids) == "the"


@pytest.mark.parametrize("name", ["<|end of text|>", "a:1", "$A", "th"])
def test_the_end_may_have_any_name(name: str) -> None:
    pieces = list(dict.fromkeys([*byte_characters().values(), "th", name]))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    ours = from_gpt2(vocabulary, ["t h"], "here", end=name)
    library = Library.from_str(description(ours, "here").text)
    assert library.encode("ah").ids == [ours.end, *ours.encode("ah")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_of_those_who_get_it_reads_it(kind: str, tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")
    from groundup.core.files import atomic_json, atomic_write
    from groundup.interop.tokenizer_json import settings

    ours = tokenizers[kind]
    described = description(ours, "here")
    atomic_write(tmp_path / "tokenizer.json", described.text)
    atomic_json(tmp_path / "tokenizer_config.json", settings(described, 48))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.model_max_length) == (ours.end, ours.end, 48)
    for text in [*AWKWARD, *random_texts(300, seed=1)]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids) == ours.decode(ids)


def test_byt5s_tokenizer_is_known_without_a_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers judges what is imported")
    from groundup.interop.folder import export, import_
    from groundup.tokenizer.load import load

    theirs = transformers.ByT5Tokenizer()
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=384, **sizes, pad_token_id=0, eos_token_id=1)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "hf")
    import_(tmp_path / "hf", tmp_path / "run")
    ours = load(tmp_path / "run" / "tokenizer")
    assert (ours.vocabulary, ours.end) == (259, theirs.eos_token_id)
    for text in [*AWKWARD[4:], *random_texts(100)]:
        if "</s>" not in text:  # a special piece there, text here
            assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
    export(tmp_path / "run", tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("né")["input_ids"] == theirs("né")["input_ids"]


def test_somebody_elses_sentencepiece_is_refused(bpe: Tokenizer) -> None:
    assert isinstance(bpe, SentencePiece)
    foreign = SentencePiece(bpe._bytes, "their.model")
    with pytest.raises(DataError, match=r"run/tokenizer: is somebody's SentencePiece model"):
        description(foreign, "run/tokenizer")
