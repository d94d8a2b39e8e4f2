"""Tokenizers as `tokenizer.json`, the file of Hugging Face's library; what the ids are used for it does not know."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Library

from groundup.core.errors import DataError
from groundup.interop.marks import Marks
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.huggingface import HuggingFace
from groundup.tokenizer.protocol import Tokenizer
from groundup.tokenizer.sentence import SPACE, SentencePiece
from groundup.tokenizer.table import BYTES

NONE = Marks()
"""Of a network that continues texts."""

END = "<|end|>"
"""The name that the end of a document gets where the tokenizer has none for it."""


class Described(NamedTuple):
    """A tokenizer for the library.

    Attributes:
        text: of `tokenizer.json`.
        end: the piece that ends a document.
        mask: the piece that stands for what is hidden, if there is one.
        pad: the piece of padding.
    """

    text: str
    end: str
    mask: str | None
    pad: str


def description(tokenizer: Tokenizer, where: str, marks: Marks = NONE) -> Described:
    """A tokenizer with the same ids, and with names for those of `marks`, which are read in a text.

    The piece that ends a document also stands before every text, where special pieces are asked for: it is what a
    network trained here has seen before the first token of a document. Behind a source it stands at its end.

    Raises:
        DataError: the tokenizer cannot be written in this form.
    """
    library = library_of(tokenizer, where)
    names = [_fresh(name, library) for name in marks.names]
    end = str(library.id_to_token(tokenizer.end))
    if tokenizer.end not in library.get_added_tokens_decoder():
        library.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    # A sentinel is no special piece to the library, so that it is read in a text where the others are text; and what
    # stands in the place of a token has the space before it, except that a byte has none.
    space = not isinstance(tokenizer, Bytes)
    for number, name in enumerate(names, tokenizer.vocabulary):
        special = number in (marks.mask, marks.pad)
        library.add_tokens([AddedToken(name, normalized=False, lstrip=space, special=special)])
    values = json.loads(library.to_str())
    values["post_processor"] = _beside(end, tokenizer.end, marks.behind)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    read = Library.from_str(text)
    for number, name in enumerate(names, tokenizer.vocabulary):
        if read.token_to_id(name) != number:
            raise DataError(where, f"has ids without a piece, so {name} cannot be {number}", "give it all its pieces")
    mask = None if marks.mask is None else str(library.id_to_token(marks.mask))
    pad = end if marks.pad is None else str(library.id_to_token(marks.pad))
    return Described(text, end, mask, pad)


def library_of(tokenizer: Tokenizer, where: str) -> Library:
    """What the library makes of a tokenizer.

    Raises:
        DataError: it has no form for its rules.
    """
    if isinstance(tokenizer, HuggingFace):
        return tokenizer.library()
    if isinstance(tokenizer, Bytes):
        return _byte_pairs([(piece, 0.0) for piece in [*BYTES, END]], {END})
    if isinstance(tokenizer, SentencePiece) and tokenizer.exact:
        return _byte_pairs(tokenizer.scored(), tokenizer.special())
    what = "is somebody's SentencePiece model, whose rules this form does not have"
    raise DataError(where, what, "export with the tokenizer.json its authors publish")


def byt5(where: str) -> HuggingFace:
    """ByT5's tokenizer (Xue et al. 2022), of which there is no file: three special pieces, then the bytes of UTF-8."""
    special = ("<pad>", "</s>", "<unk>")
    library = _byte_pairs([(piece, 0.0) for piece in [*special, *BYTES]], set(special))
    library.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    return HuggingFace(library.to_str(), where, end="</s>")


def unmade(tokenizer: Tokenizer, library: Library) -> dict[str, int]:
    """The pieces that no text is made of, and their ids."""
    if isinstance(tokenizer, SentencePiece):
        return {piece: number for piece, number in library.get_vocab().items() if piece in tokenizer.special()}
    unknown = getattr(library.model, "unk_token", None)
    added = {token.content: number for number, token in library.get_added_tokens_decoder().items() if token.special}
    return {piece: number for piece, number in added.items() if piece != unknown}


def _fresh(name: str, library: Library) -> str:
    """The name, or one like it that the library has no piece for."""
    while library.token_to_id(name) is not None:
        name = f"<{name}>"
    return name


def _beside(end: str, number: int, behind: bool) -> dict[str, Any]:
    """What puts a piece before every text, or behind; written out: the library's short form reads $ and : in names."""

    def piece(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    before, after = ([], [piece(end)]) if behind else ([piece(end)], [])
    return {
        "type": "TemplateProcessing",
        "single": [*before, text("A"), *after],
        "pair": [*before, text("A"), text("B"), *after],
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


def settings(described: Described, context: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    Args:
        described: the tokenizer.
        context: most tokens of a text.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": described.end,
        "eos_token": described.end,
        "pad_token": described.pad,
        **({} if described.mask is None else {"mask_token": described.mask}),
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        # A name of a special piece in a text is text, as in training; but a mask is there to be named.
        "split_special_tokens": described.mask is None,
    }
