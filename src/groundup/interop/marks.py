"""Ids of a network that no text is made of, masks and sentinels, and their names; how they are trained is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from groundup.core.errors import ConfigError
from groundup.model.config import Decoder
from groundup.model.options import Transformer

MASKS = ("<mask>", "[MASK]")
PADS = ("<pad>", "[PAD]")
MODES = ("[NLU]", "[S2S]", "[NLG]")
"""What UL2's own files call its modes R, S and X."""


class Marks(NamedTuple):
    """Ids beside those of text and of its end.

    Attributes:
        names: of ids behind the tokenizer's, in their order.
        mask: the id that stands for what is hidden.
        pad: the id of padding; None: the end of a document is.
        behind: the end of a document stands behind a text, which is a source, instead of before.
    """

    names: tuple[str, ...] = ()
    mask: int | None = None
    pad: int | None = None
    behind: bool = False


def marks(
    config: Transformer, vocabulary: int, pieces: Mapping[str, int], objective: Mapping[str, Any], sentinels: bool
) -> Marks:
    """What a network's ids mean by what it was trained for, or, where that is not known, by what it is.

    Args:
        config: the network.
        vocabulary: ids of its tokenizer.
        pieces: of the tokenizer, and their ids.
        objective: its options; empty: not known.
        sentinels: a network of its kind has sentinels behind the tokenizer's ids, else a mask.
    """
    kind, spare = objective.get("kind"), config.closed()[0] - vocabulary
    if isinstance(config, Decoder):
        return Marks()
    behind = config.kind == "encoder_decoder"
    if kind in ("span", "ul2") or (kind is None and sentinels):
        own = objective.get("first_sentinel") is None and (kind is not None or "<extra_id_0>" not in pieces)
        said = objective.get("sentinels")
        count = (said if isinstance(said, int) else spare) if own else 0
        names = [f"<extra_id_{count - 1 - number}>" for number in range(count)]
        names += MODES if kind == "ul2" else ()
        return Marks(tuple(names) if len(names) <= spare else (), behind=behind)
    if kind not in ("masked", "denoise", None):
        return Marks(behind=behind)
    mask = objective.get("mask_id")
    if kind is None:
        mask = next((pieces[name] for name in MASKS if name in pieces), None)
    if mask is None and spare > 0:
        return Marks((MASKS[0],), vocabulary, behind=behind)
    return Marks(mask=mask, behind=behind)


def padded(found: Marks, config: Transformer, vocabulary: int, unmade: Mapping[str, int], end: int) -> Marks:
    """The same with padding that has an id of its own.

    Args:
        found: the ids so far.
        config: the network.
        vocabulary: ids of its tokenizer.
        unmade: pieces of the tokenizer that no text is made of, and their ids.
        end: the id that ends a document.

    Raises:
        ConfigError: there is no such id.
    """
    free = {name: number for name, number in unmade.items() if number not in (end, found.mask)}
    known = [free[name] for name in PADS if name in free] or sorted(free.values())
    if known:
        return found._replace(pad=known[0])
    more = vocabulary + len(found.names)
    if more < config.closed()[0]:
        return found._replace(names=(*found.names, PADS[0]), pad=more)
    raise ConfigError(
        f"model.vocabulary={config.vocabulary}",
        "leaves no id for padding, by which this family of transformers tells where text stands",
        "export as bert, which computes the same, or train with a vocabulary of one more",
    )


def is_name(piece: str) -> bool:
    """Whether a piece may be called so here."""
    bare = piece.strip("<>")
    return piece in (*MASKS, *PADS, *MODES) or bare in ("mask", "pad") or bare.removeprefix("extra_id_").isdecimal()
