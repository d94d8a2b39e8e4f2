"""Tokenizers as `tokenizer.json`, the file of Hugging Face's library; what the ids are used for it does not know."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Library

from groundup.core.errors import DataError
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.huggingface import HuggingFace
from groundup.tokenizer.protocol import Tokenizer
from groundup.tokenizer.sentence import SPACE, SentencePiece

END = "<|end|>"
"""The name that the end of a document gets where the tokenizer has none for it."""

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
"""How a byte that belongs to no piece is spelt, here and in SentencePiece."""


def description(tokenizer: Tokenizer, where: str) -> tuple[str, str]:
    """The text of a `tokenizer.json` with the same ids, and the name of the piece that ends a document.

    That piece also stands before every text, where special pieces are asked for: it is what a network trained here
    has seen before the first token of a document.

    Raises:
        DataError: the tokenizer cannot be written in this form.
    """
    if isinstance(tokenizer, HuggingFace):
        library = tokenizer.library()
    elif isinstance(tokenizer, Bytes):
        library = _byte_pairs([(piece, 0.0) for piece in [*BYTES, END]], {END})
    elif isinstance(tokenizer, SentencePiece) and tokenizer.exact:
        library = _byte_pairs(tokenizer.scored(), tokenizer.special())
    else:
        what = "is somebody's SentencePiece model, whose rules this form does not have"
        raise DataError(where, what, "export with the tokenizer.json its authors publish")
    end = str(library.id_to_token(tokenizer.end))
    if tokenizer.end not in library.get_added_tokens_decoder():
        library.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    values = json.loads(library.to_str())
    values["post_processor"] = _behind(end, tokenizer.end)
    return json.dumps(values, indent=2, ensure_ascii=False), end


def _behind(end: str, number: int) -> dict[str, Any]:
    """What puts a piece before every text; written out, since the library's short form reads $ and : in its name."""

    def piece(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    return {
        "type": "TemplateProcessing",
        "single": [piece(end), text("A")],
        "pair": [piece(end), text("A"), text("B")],
        "special_tokens": {end: {"id": end, "ids": [number], "tokens": [end]}},
    }


def _byte_pairs(pieces: list[tuple[str, float]], special: set[str]) -> Library:
    """Byte pairs with bytes for what has no piece, merged in the order of their scores as SentencePiece does.

    A space is a space here, not U+2581, which a text may hold itself.
    """
    names = [piece if piece in special else piece.replace(SPACE, " ") for piece, _ in pieces]
    ids = {name: number for number, name in enumerate(names)}
    scores = dict(zip(names, (score for _, score in pieces), strict=True))
    unmade = {*special, *BYTES}
    whole = [name for name in names if name not in unmade]
    merges = [
        (-scores[name], cut, name)
        for name in whole
        for cut in range(1, len(name))
        if name[:cut] in ids and name[cut:] in ids
    ]
    pairs = [(name[:cut], name[cut:]) for _, cut, name in sorted(merges, key=lambda merge: merge[:2])]
    library = Library(models.BPE(ids, pairs, byte_fallback=True, fuse_unk=False))
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return library


def settings(end: str, context: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    Args:
        end: the piece that ends a document.
        context: most tokens of a text.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # a name of a special piece in a text is text, as in training
    }
