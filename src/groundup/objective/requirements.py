"""What an objective needs of the network and of the tokenizer; what it minimises is not known here.

All of these raise ConfigError, in one line with the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.errors import ConfigError

if TYPE_CHECKING:
    from groundup.tokenizer.protocol import Tokenizer


def two_stacks(model: Any) -> bool:
    """Whether a network reads a source and writes a target."""
    return getattr(model, "kind", None) == "encoder_decoder"


def expect_two_stacks(kind: str, model: Any) -> None:
    """An objective of a source and a target needs a network of two stacks."""
    if not two_stacks(model):
        what = "trains a network that reads a source and writes a target"
        raise ConfigError(f"objective={kind}", what, "set model=encoder_decoder")


def expect_id(name: str, value: int | None, model: Any) -> None:
    """An id that is named must be one of the network's, whose vocabulary is filled in by now."""
    if value is not None and model.vocabulary is not None and value >= model.vocabulary:
        raise ConfigError(
            f"objective.{name}={value}",
            f"is no id of a network with model.vocabulary={model.vocabulary}",
            "give one that the tokenizer has, or null for ids of its own",
        )


def expect_free(where: str, number: int, first: int, tokenizer: Tokenizer, own: range) -> None:
    """An id that is to stand for what is hidden must stand for nothing else.

    Args:
        where: the option that names it, or the first of those that count down to it.
        number: the id.
        first: of those.
        tokenizer: of the data.
        own: ids that the objective adds.
    """
    apart = tokenizer.apart()
    if number in own:
        what = "is an id that the objective adds for a meaning of its own"
    elif number >= tokenizer.vocabulary or number in apart.values():
        return
    elif number == tokenizer.end:
        what = "is the id that ends documents"
    else:
        what = f"is a piece that text is made of, {tokenizer.decode([number])!r}"
    reached = "" if number == first else f"counts down to {number}, which "
    some = ", ".join(f"{i} {piece}" for piece, i in list(apart.items())[:8])
    known = f"an id that no text is made of ({some}), or " if apart else ""
    raise ConfigError(where, f"{reached}{what}", f"give {known}null for ids behind the tokenizer's")


def expect_sentinels(first: int | None, sentinels: int) -> None:
    """Sentinels count down from the first, and ids from 0."""
    if first is not None and first < sentinels - 1:
        raise ConfigError(
            f"first_sentinel={first}",
            f"leaves no room for sentinels={sentinels}, which count down from it",
            f"give the largest of their ids, or at most sentinels={first + 1}",
        )
