"""Ids behind a tokenizer's own are called what the run's objective made of them, or else what is usual."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from groundup.core.errors import DataError
from groundup.core.files import atomic_json
from groundup.data.counts import MODES as MODES_HERE
from groundup.interop.folder import export, import_
from groundup.interop.marks import MODES, Marks
from groundup.interop.tokenizer_json import description
from groundup.model.config import EncoderDecoder
from groundup.objective.config import Masked, Span, Ul2
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.huggingface import byte_characters, from_gpt2
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import Tokenizer

Make = Callable[..., Path]
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer", "gain": True, "bias": True, "qk_norm": False}
POST = {**GPT2, "norm_place": "post", "init": "gpt2", "activation": "gelu"}
BERT = {**POST, "kind": "encoder", "head_transform": True, "head_bias": True}
BART = {**POST, "kind": "encoder_decoder"}
T5 = {"kind": "encoder_decoder", "positions": "t5", "embedding_norm": False, "scaled_scores": False, "qk_norm": False}
T5 |= {"gain": True}


def trained(run: Path, **objective: Any) -> Path:
    """Leave the objective of a run."""
    atomic_json(run / "report.json", {"config": {"data": {}, "objective": objective}, "steps": 1})
    return run


def pieces(run: Path, hf: Path) -> dict[int, str]:
    """What an export calls the ids behind the tokenizer's."""
    export(run, hf)
    library = Library.from_file(str(hf / "tokenizer.json"))
    ours = load_tokenizer(run / "tokenizer").vocabulary
    return {number: name for name, number in library.get_vocab().items() if number >= ours}


@pytest.mark.parametrize(
    ("parts", "objective", "more", "named"),
    [
        (T5, {"kind": "span", "sentinels": 3}, 5, {257: "<extra_id_2>", 258: "<extra_id_1>", 259: "<extra_id_0>"}),
        (BART, {"kind": "span", "sentinels": 1}, 2, {257: "<extra_id_0>"}),
        (
            T5,
            {"kind": "ul2", "sentinels": 2},
            5,
            {257: "<extra_id_1>", 258: "<extra_id_0>", 259: "[NLU]", 260: "[S2S]", 261: "[NLG]"},
        ),
        (T5, {"kind": "ul2", "sentinels": 2, "first_sentinel": 20}, 3, {257: "[NLU]", 258: "[S2S]", 259: "[NLG]"}),
        (T5, {"kind": "span", "sentinels": 9, "first_sentinel": 20}, 3, {}),
        (T5, {"kind": "span", "sentinels": 9}, 3, {}),
        (T5, {"kind": "span", "sentinels": "damaged"}, 1, {257: "<extra_id_0>"}),
        (T5, {"kind": "prefix"}, 3, {}),
        (T5, {"kind": "denoise"}, 3, {257: "<mask>"}),
        (T5, {}, 2, {257: "<extra_id_1>", 258: "<extra_id_0>"}),
        (T5, {}, 0, {}),
        (BART, {}, 2, {257: "<mask>"}),
        (BERT, {"kind": "masked"}, 2, {257: "<mask>"}),
        (BERT, {"kind": "masked", "mask_id": 11}, 2, {}),
        (BERT, {}, 3, {257: "<mask>"}),
        (BERT, {}, 0, {}),
        ({}, {"kind": "pretrain"}, 4, {}),
    ],
)
def test_ids_behind_the_tokenizers_are_called_what_they_are(
    parts: dict[str, Any], objective: dict[str, Any], more: int, named: dict[int, str], made: Make, tmp_path: Path
) -> None:
    run = trained(made(Bytes(), **parts, vocabulary=257 + more), **objective)
    assert pieces(run, tmp_path / "hf") == named
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    mask = "<0x0B>" if objective.get("mask_id") else "<mask>" if "<mask>" in named.values() else None
    assert settings.get("mask_token") == mask
    assert settings["split_special_tokens"] == (mask is None)
    import_(tmp_path / "hf", tmp_path / "back")
    assert load_tokenizer(tmp_path / "back" / "tokenizer").digest == Bytes().digest, "names change no tokenizer"


def test_the_objectives_have_as_many_ids_as_are_named() -> None:
    assert len(MODES) == len(MODES_HERE)
    assert Ul2(sentinels=2).extra_ids == 2 + len(MODES)
    network = EncoderDecoder()
    view: Any = Ul2(sentinels=2).view(0, Bytes(), network)
    assert view.spans[0].first == 258 and view.last_part == 260, "as named above: sentinel 0, then S between R and X"
    span: Any = Span(sentinels=3).view(0, Bytes(), network)
    assert span.first == 259
    masked: Any = Masked().view(0, Bytes(), network)
    assert masked.mask == 257


def test_a_sentinel_is_read_in_a_text_and_a_source_ends_with_the_end(
    made: Make, bpe: Tokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")
    run = trained(made(bpe, **T5, vocabulary=bpe.vocabulary + 2), kind="span", sentinels=2)
    export(run, tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "The <extra_id_0> of <extra_id_1>."
    between = [*bpe.encode("The"), bpe.vocabulary + 1, *bpe.encode(" of"), bpe.vocabulary, *bpe.encode(".")]
    assert theirs(text)["input_ids"] == [*between, bpe.end]
    assert theirs(f"a {theirs.eos_token}")["input_ids"] == [*bpe.encode(f"a {theirs.eos_token}"), bpe.end]
    assert theirs.decode(between) == "The<extra_id_0> of<extra_id_1>."


def test_a_name_that_the_tokenizer_has_already_is_not_given_again() -> None:
    names = list(dict.fromkeys([*byte_characters().values(), "<mask>", "<|endoftext|>"]))
    ours = from_gpt2({piece: i for i, piece in enumerate(names)}, [], "here")
    found = description(ours, "here", Marks(("<mask>",), ours.vocabulary))
    assert found.mask == "<<mask>>"
    assert Library.from_str(found.text).token_to_id("<<mask>>") == ours.vocabulary


def test_ids_without_pieces_leave_no_place_for_a_name() -> None:
    names = {piece: i for i, piece in enumerate([*byte_characters().values()])}
    ours = from_gpt2({**names, "<|endoftext|>": 300}, [], "here")
    with pytest.raises(DataError, match=r"here: has ids without a piece, so <mask> cannot be 301"):
        description(ours, "here", Marks(("<mask>",), ours.vocabulary))


def test_a_mask_of_the_tokenizers_own_is_found(made: Make, tmp_path: Path) -> None:
    names = list(dict.fromkeys([*byte_characters().values(), "<mask>", "<|endoftext|>"]))
    ours = from_gpt2({piece: i for i, piece in enumerate(names)}, [], "here")
    assert pieces(made(ours, **BERT), tmp_path / "hf") == {}
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == "<mask>"
