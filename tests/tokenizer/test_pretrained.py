"""Others' tokenizers give the ids their authors' code gives; GPT-2's is compared with an implementation of its own."""

import gzip
import json
import shutil
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from groundup.core.errors import ConfigError, DataError
from groundup.tokenizer.config import Pretrained
from groundup.tokenizer.huggingface import HuggingFace, byte_characters
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import Tokenizer, lossless

TEXTS = [
    "",
    "Hello world",
    " It's   they'll\n\n\tdo 12345 things, isn't it?  ",
    "naïve café 東京 🎉 ½ ٣٤",
    "def f(x):\n    return x ** 2  # square\n",
    "<|endoftext|></s><s>",
]


def opened(path: Path, **options: str) -> Tokenizer:
    config = Pretrained(path=str(path), **options)
    config.check()
    return config.build(lambda: iter(()))


def save(library: Library, path: Path) -> Path:
    path.write_text(library.to_str(), "utf-8")
    return path


@pytest.mark.parametrize("name", ["mistral_v1_tokenizer", "sp_unigram_1000_botchan", "sp_unigram_ja"])
def test_sentencepiece_ids_are_the_authors(public_models: Path, name: str, code: list[str], tmp_path: Path) -> None:
    path = public_models / f"{name}.model"
    peer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = opened(path)
    for text in (*TEXTS, *code, "▁▁ a"):
        assert ours.encode(text) == peer.encode(text)
    assert ours.end == peer.eos_id()
    (tmp_path / "x.model.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert opened(tmp_path / "x.model.gz").digest == ours.digest


def test_a_model_that_adds_a_space_takes_it_away_and_says_so(public_models: Path, code: list[str]) -> None:
    mistral = opened(public_models / "mistral_v1_tokenizer.model")
    assert mistral.card()["adds_space"] is True
    for text in (*TEXTS, *code, " two", "  three"):
        ids = mistral.encode(text)
        assert mistral.decode(ids) == text
        assert mistral.byte_lengths()[ids].sum() == len(text.encode()) + (1 if text else 0)


def test_gpt2_ids_are_those_of_its_published_algorithm(public_models: Path, code: list[str], tmp_path: Path) -> None:
    ours = opened(public_models / "gpt2_encoder.json.gz")
    vocabulary = json.loads(gzip.decompress((public_models / "gpt2_encoder.json.gz").read_bytes()))
    merges = gzip.decompress((public_models / "gpt2_vocab.bpe.gz").read_bytes()).decode().split("\n")[1:-1]
    peer = GPT2(vocabulary, merges)
    for text in (*TEXTS, code[2][:6000]):
        ids = ours.encode(text)
        assert ids == peer.encode(text)
        assert ours.decode(ids) == text
        assert ours.byte_lengths()[ids].sum() == len(text.encode())
    assert ours.encode("Hello world") == [15496, 995]
    assert (ours.vocabulary, ours.end) == (50257, 50256)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    assert opened(tmp_path).digest == ours.digest


class GPT2:
    """GPT-2's encoder as its paper and code describe it, with no library (Radford et al. 2019)."""

    def __init__(self, vocabulary: dict[str, int], merges: list[str]) -> None:
        self.vocabulary = vocabulary
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        self.word = lru_cache(None)(self._word)

    def encode(self, text: str) -> list[int]:
        characters = byte_characters()
        return [i for word in words(text) for i in self.word("".join(characters[byte] for byte in word.encode()))]

    def _word(self, word: str) -> list[int]:
        parts = list(word)
        while len(parts) > 1:
            rank, at = min((self.ranks.get((a, b), 10**9), i) for i, (a, b) in enumerate(pairwise(parts)))
            if rank == 10**9:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.vocabulary[part] for part in parts]


def words(text: str) -> Iterator[str]:
    """GPT-2's split: contractions, then letters, numbers or others with one space before, then white space."""
    at = 0
    while at < len(text):
        end = next((at + len(c) for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, at)), at)
        if end == at:
            start = at + 1 if text[at] == " " and at + 1 < len(text) and kind(text[at + 1]) != "Z" else at
            end = start
            while end < len(text) and kind(text[end]) == kind(text[start]):
                end += 1
            if kind(text[start]) == "Z" and end < len(text) and end - start > 1:
                end -= 1
        yield text[at:end]
        at = end


def kind(character: str) -> str:
    """L for letters, N for numbers, Z for white space, O for others."""
    if character.isspace():
        return "Z"
    first = unicodedata.category(character)[0]
    return first if first in "LN" else "O"


def test_a_tokenizer_json_with_a_space_before_and_byte_fallback(metaspace: Path) -> None:
    ours = opened(metaspace)
    assert ours.card()["adds_space"] is True
    for text in ("a tab\tand 東京", "x", " y"):
        ids = ours.encode(text)
        assert ours.decode(ids) == text == Library.from_file(str(metaspace)).decode(ids)
        assert ours.byte_lengths()[ids].sum() == len(text.encode()) + 1
    assert ours.end == 2


def test_a_byte_level_tokenizer_json_loses_nothing(byte_level: Tokenizer, code: list[str]) -> None:
    byte_level.threads = 2
    for text, array in zip(code, byte_level.encode_batch(code), strict=True):
        assert byte_level.decode(array.tolist()) == text
        assert byte_level.byte_lengths()[array].sum() == len(text.encode())


def test_nothing_is_added_to_a_text_and_names_of_special_pieces_are_text(byte_level: Tokenizer) -> None:
    assert byte_level.encode("a") == byte_level.encode(
        "a",
    )
    assert byte_level.end not in byte_level.encode("<|endoftext|>")
    assert byte_level.decode(byte_level.encode("<|endoftext|>")) == "<|endoftext|>"
    assert byte_level.decode([byte_level.end]) == ""
    assert len(byte_level.encode("a")) == 1  # its own file would put <|endoftext|> before and after


def test_truncation_and_padding_of_the_file_are_left_out(byte_level_file: Path) -> None:
    library = Library.from_file(str(byte_level_file))
    library.enable_truncation(4)
    library.enable_padding(length=64)
    assert HuggingFace(library.to_str(), "x").encode("word " * 9) == opened(byte_level_file).encode("word " * 9)


def test_another_piece_may_end_documents(byte_level_file: Path, public_models: Path) -> None:
    assert opened(byte_level_file, end="<pad>").end == 1
    assert opened(public_models / "mistral_v1_tokenizer.model", end="<s>").end == 1
    for path in (byte_level_file, public_models / "mistral_v1_tokenizer.model"):
        with pytest.raises(ConfigError, match=r"end=</x>: is no piece"):
            opened(path, end="</x>")


def test_a_tokenizer_without_a_known_end_asks_for_one(byte_level_file: Path, tmp_path: Path) -> None:
    text = byte_level_file.read_text("utf-8").replace("<|endoftext|>", "<|stop|>")
    (tmp_path / "t.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"end: .*end=.*<\|stop\|>, <pad>"):
        opened(tmp_path / "t.json")
    assert opened(tmp_path / "t.json", end="<|stop|>").end == 0


def test_the_pieces_of_bert_are_read_and_give_back_what_they_keep_of_a_text(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "in", "the", "begin", "##ning", ",", "god"]
    library = Library(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(["[PAD]", "[UNK]", "[SEP]", "[MASK]"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = opened(tmp_path / "tokenizer.json")
    ids = tokenizer.encode("In the  beginning, God [SEP]")
    assert ids == [4, 5, 6, 7, 8, 9, 1, 1, 1]
    assert tokenizer.end == 2
    assert tokenizer.decode(ids) == "in the beginning , god"
    assert int(tokenizer.byte_lengths()[ids].sum()) == len(b" in the beginning , god")
    assert not lossless(tokenizer, "In the beginning")
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").encode("the god") == [5, 9]


def test_what_is_no_tokenizer_is_named(tmp_path: Path, byte_level_file: Path) -> None:
    library = Library(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    library.decoder = decoders.CTC()
    cases = {
        "none.model": None,
        "bad.model": b"abc",
        "bad.json": b"{",
        "list.json": b"[1]",
        "words.json": b'{"a": "b"}',
        "half.json": byte_level_file.read_bytes()[:-40],
        "wrong.json": b'{"model": {}}',
        "ctc.json": library.to_str().encode(),
        "bad.model.gz": b"no gzip",
        "cut.json.gz": gzip.compress(byte_level_file.read_bytes())[:-300],
        "x.bin": b"abc",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            opened(tmp_path / name)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ConfigError, match="merges"):
        opened(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("q r\n")
    with pytest.raises(DataError, match="do not fit"):
        opened(tmp_path / "vocab.json")


def test_a_folder_must_hold_one_tokenizer(tmp_path: Path, byte_level_file: Path, public_models: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer stands there"):
        opened(tmp_path)
    for name in ("a.model", "b.model"):
        shutil.copy(public_models / "mistral_v1_tokenizer.model", tmp_path / name)
    with pytest.raises(DataError, match=r"several \.model files"):
        opened(tmp_path)
    (tmp_path / "b.model").unlink()
    assert opened(tmp_path).vocabulary == 32000
    shutil.copy(byte_level_file, tmp_path / "tokenizer.json")
    assert opened(tmp_path).vocabulary == 500


def test_pieces_that_no_text_is_made_of_are_known_by_their_kind(code: list[str], tmp_path: Path) -> None:
    named = {"control_symbols": ["<c>", "<mask>"], "user_defined_symbols": ["<u>"]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in code for line in text.splitlines()),
        model_prefix=str(tmp_path / "x"),
        vocab_size=400,
        minloglevel=2,
        **named,
    )
    tokenizer = opened(tmp_path / "x.model")
    assert set(tokenizer.apart()) == {"<s>", "<c>", "<mask>", "<u>"}, "neither the end nor the unknown piece"
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "x.model"))
    assert all(peer.piece_to_id(piece) == i for piece, i in tokenizer.apart().items())
    assert not set(tokenizer.apart().values()) & {i for text in code for i in tokenizer.encode(text)}
