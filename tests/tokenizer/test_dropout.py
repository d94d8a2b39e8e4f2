"""Laws of BPE-dropout: nothing left out is the tokenizer itself, nothing is ever lost, and every draw has a key."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.tokenizer import dropout as module
from groundup.tokenizer.config import BPE, Bytes, Pretrained
from groundup.tokenizer.dropout import Dropout
from groundup.tokenizer.protocol import Tokenizer
from groundup.tokenizer.sentence import SPACE

ODD = ["\0", "\t", "\n\n", "  ", "   ", SPACE, "</s>", "<0x0A>", "def", "self.", "é", "日本", "🎉", "\ufeff", "x" * 40]
texts = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=4)), max_size=30).map("".join))
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)


def encode(made: Dropout, text: str, document: str = "", number: int = 1) -> list[int]:
    return made.encode(text, document, [number])[0].tolist()


@pytest.fixture(scope="session")
def opened(bpe: Tokenizer, byte_level_file: Path, metaspace: Path) -> dict[str, Tokenizer]:
    """Tokenizers of three kinds that merge."""
    files = {"byte level": byte_level_file, "metaspace": metaspace}
    return {"bpe": bpe} | {name: Pretrained(path=str(path)).build(lambda: iter(())) for name, path in files.items()}


@pytest.fixture(scope="session")
def makers(opened: dict[str, Tokenizer]) -> dict[str, Callable[[float], Dropout]]:
    """By tokenizer and probability what samples it, made once."""
    made = {(name, p): Dropout(opened[name], p, 3) for name in opened for p in (0.0, 0.1, 0.5, 0.99)}
    return {name: lambda p, name=name: made[name, p] for name in opened}


@pytest.mark.parametrize("kind", ["bpe", "byte level", "metaspace"])
def test_with_nothing_left_out_any_text_has_the_tokenizers_ids(
    kind: str, makers: dict[str, Callable[[float], Dropout]], opened: dict[str, Tokenizer], code: list[str]
) -> None:
    made, tokenizer = makers[kind](0.0), opened[kind]

    @quick
    @given(texts)
    def same(text: str) -> None:
        assert encode(made, text) == tokenizer.encode(text)

    same()
    for text in (*code, "x" * 20_000, " " * 20_000, ("a" * 5_000 + " ") * 3):
        assert encode(made, text) == tokenizer.encode(text)


def test_with_nothing_left_out_pieces_without_digits_of_their_own_are_the_tokenizers_too(code: list[str]) -> None:
    counted = [*code, *(f"in 1999 and {n}" for n in range(1000, 3000))]
    tokenizer = BPE(vocabulary=1024, split_digits=False).build(lambda: iter(counted))
    made = Dropout(tokenizer, 0)
    assert [encode(made, text) for text in counted] == [tokenizer.encode(text) for text in counted]


@pytest.mark.parametrize("name", ["mistral_v1_tokenizer.model", "gpt2_encoder.json.gz"])
def test_with_nothing_left_out_published_tokenizers_are_themselves(
    public_models: Path, name: str, code: list[str]
) -> None:
    options = {"merges": str(public_models / "gpt2_vocab.bpe.gz")} if "gpt2" in name else {}
    tokenizer = Pretrained(path=str(public_models / name), **options).build(lambda: iter(()))
    made = Dropout(tokenizer, 0)
    for text in (*code, *ODD, "naïve café 東京 🎉 ½ ٣٤", ""):
        assert encode(made, text) == tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["bpe", "byte level", "metaspace"])
def test_any_text_comes_back_whatever_is_left_out(
    kind: str, makers: dict[str, Callable[[float], Dropout]], opened: dict[str, Tokenizer]
) -> None:
    @quick
    @given(texts, st.sampled_from([0.1, 0.5, 0.99]), st.text(max_size=2), st.integers(1, 4))
    def back(text: str, dropout: float, document: str, number: int) -> None:
        ids = encode(makers[kind](dropout), text, document, number)
        assert opened[kind].decode(ids) == opened[kind].decode(opened[kind].encode(text))
        assert opened[kind].end not in ids
        if kind == "bpe":
            assert opened[kind].decode(ids) == text

    back()


def test_segmentations_come_as_often_as_the_papers_algorithm_gives_them(bpe: Tokenizer) -> None:
    made, word, dropout, draws = Dropout(bpe, 0.3), " return", 0.3, 4000
    merges = bpe.merges()  # type: ignore[attr-defined]  # this kind has some
    likely: Counter[tuple[str, ...]] = Counter()

    def go(parts: tuple[str, ...], chance: float) -> None:
        """One step of algorithm 1: the best of the merges that are not left out; the end when all are."""
        found = [(merges.ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in merges.ranks]
        for _, i in sorted(found):
            go((*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]), chance * (1 - dropout))
            chance *= dropout
        likely[parts] += chance

    go(tuple(word), 1.0)
    assert sum(likely.values()) == pytest.approx(1)
    drawn = Counter(made._draw(word, i.to_bytes(4, "big")) for i in range(draws))
    expected = {tuple(merges.ids[part] for part in parts): chance for parts, chance in likely.items()}
    assert len(expected) > 20
    assert set(drawn) <= set(expected)
    for ids, chance in expected.items():
        assert abs(drawn[ids] - draws * chance) < 5 * np.sqrt(draws * chance * (1 - chance)) + 2


def test_ids_depend_on_keys_alone_and_not_on_what_came_before(
    bpe: Tokenizer, code: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [(text[at : at + 400], f"{at}") for text in code for at in range(0, 4000, 400)]
    one = Dropout(bpe, 0.2, 7)
    forward = [one.encode(text, name, [1, 2, 3]) for text, name in documents]
    monkeypatch.setattr(module, "REMEMBERED", 5)
    other = Dropout(bpe, 0.2, 7)
    for (text, name), arrays in reversed(list(zip(documents, forward, strict=True))):
        assert [encode(other, text, name, number) for number in (3, 2, 1)] == [a.tolist() for a in reversed(arrays)]
        assert max(len(other._newer), len(other._older)) <= 5


def test_seeds_sets_documents_and_places_get_segmentations_of_their_own(bpe: Tokenizer, code: list[str]) -> None:
    text = code[0][:3000]
    made = Dropout(bpe, 0.2, 7)
    variants = [encode(Dropout(bpe, 0.2, 8), text), *(encode(made, text, d, n) for d in ("a", "b") for n in (1, 2))]
    assert len({tuple(ids) for ids in variants}) == len(variants)
    pieces = Counter(tuple(encode(made, " function", "a", number)) for number in range(200))
    assert 3 < len(pieces) <= module.VARIANTS
    long = "abc" * 30
    assert len({tuple(encode(made, long, "a", number)) for number in range(50)}) == 50
    halves = encode(made, f"{long}\n\n{long}")
    assert halves[: len(halves) // 2] != halves[-(len(halves) // 2) :]


def test_more_left_out_is_more_pieces_a_word(bpe: Tokenizer, code: list[str]) -> None:
    counts = [len(encode(Dropout(bpe, dropout), code[2])) for dropout in (0, 0.05, 0.1, 0.3, 0.6, 0.9)]
    assert counts == sorted(set(counts))
    assert counts[-1] <= len(code[2].encode())


def test_a_long_word_takes_no_longer_than_its_length(bpe: Tokenizer) -> None:
    text = "ab" * 50_000
    ids = encode(Dropout(bpe, 0.1), text)
    assert bpe.decode(ids) == text


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(opened: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in opened.values():
        with pytest.raises(UnicodeEncodeError):
            encode(Dropout(tokenizer, 0.1), text)


SAYS = r"bpe_dropout=0\.1: this tokenizer \(\w+\) does not segment by merges .*; choose tokenizer=bpe or"


def test_a_unigram_model_cannot_be_sampled(public_models: Path) -> None:
    unigram = Pretrained(path=str(public_models / "sp_unigram_1000_botchan.model")).build(lambda: iter(()))
    with pytest.raises(ConfigError, match=SAYS):
        Dropout(unigram, 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"ignore_merges": True},
        {"end_of_word_suffix": "</w>"},
        {"type": "WordLevel", "unk_token": "!"},
        {"byte_fallback": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_file_with_other_rules_than_merges_cannot_be_sampled(
    change: dict[str, object], byte_level_file: Path, tmp_path: Path
) -> None:
    value = json.loads(byte_level_file.read_text("utf-8"))
    value["model"] |= change
    if "type" in change:
        value["model"] = {key: value["model"][key] for key in ("type", "vocab", "unk_token")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value), "utf-8")
    tokenizer = Pretrained(path=str(tmp_path / "tokenizer.json")).build(lambda: iter(()))
    with pytest.raises(ConfigError, match=SAYS):
        Dropout(tokenizer, 0.1)


def test_bytes_and_impossible_probabilities_are_refused(bpe: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=SAYS):
        Dropout(Bytes().build(lambda: iter(())), 0.1)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
            Dropout(bpe, dropout)
