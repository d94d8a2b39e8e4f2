"""Multipliers of a network that a family does not have, taken up by weights; it opens no file and knows no family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from groundup.model.options import Transformer

Factors = dict[str, float]
"""By what a tensor grows whose name ends so."""

MULTIPLIERS = ("mup_base", "scaled_logits")
"""Options that may be gone without them."""

REMEDY = (
    "weights take up its multipliers where tied=false or gain=true, and those of mup_head_dim where qk_norm=false or "
    "gain=true: train it so"
)


def folded(config: Transformer, scaled_logits: bool) -> tuple[Transformer, Factors]:
    """The network without muP's multipliers and with logits scaled or not, and the weights that make it the same.

    The head is linear in its matrix and, behind the last norm, in that norm's gain; scores are linear in the queries'
    matrix or, behind a norm of theirs, in its gain. muP: Yang et al. 2022, table 8.

    Args:
        config: the network.
        scaled_logits: whether the head divides what it reads by the square root of the width.

    Returns:
        The config, and its weights as multiples of this one's; this very one where no weight can take a multiplier up.
    """
    mup, root = config.mup_base, config.width**-0.5
    head = (root if config.scaled_logits else 1.0) / (root if scaled_logits else 1.0)
    head *= 1.0 if mup is None else mup / config.width
    scores = ((config.mup_head_dim or config.channels) / config.channels) ** 0.5
    ends: list[tuple[float, str | None]] = [(head, _last(config)), (scores, _queries(config))]
    if any(factor != 1 and name is None for factor, name in ends):
        return config, {}
    found = {f"{name}.{what}": factor for factor, name in ends if factor != 1 for what in ("weight", "bias")}
    found.pop("head.bias", None)  # is added behind the multiplier
    return replace(config, mup_base=None, mup_head_dim=None, scaled_logits=scaled_logits), found


def grown(tensor: Callable[[str], Tensor], factors: Factors) -> Callable[[str], Tensor]:
    """What reads tensors by name, with their factors."""

    def read(name: str) -> Tensor:
        found = tensor(name)
        for end, factor in factors.items():
            if name.endswith(end):
                found = found * factor
        return found

    return read


def _last(config: Transformer) -> str | None:
    """What the logits are linear in: the head's own matrix, or the gain of the norm before it."""
    if not config.tied:
        return "head"
    if config.head_transform:
        return "head.transform_norm" if config.gain else None
    return "trunk.norm" if config.gain and config.norm_place == "pre" else None


def _queries(config: Transformer) -> str | None:
    """What the scores are linear in, in every attention."""
    if not config.qk_norm:
        return "attention.query"
    return "attention.query_norm" if config.gain else None
