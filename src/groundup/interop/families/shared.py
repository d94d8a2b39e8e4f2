"""What the tables of several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.core.errors import DataError
from groundup.interop.family import To
from groundup.interop.form import PLAIN, Form
from groundup.model.options import Transformer

BLOCK = "trunk.blocks.{}."
QKV = (f"{BLOCK}attention.query", f"{BLOCK}attention.key", f"{BLOCK}attention.value")
SIZES = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "context",
    "tie_word_embeddings": "tied",
}


def heads(config: Transformer) -> int:
    return config.heads


def share_of_width(config: Transformer) -> float:
    return config.width / config.heads


def whole_heads(config: Transformer) -> int:
    """A width that heads divide, which the library asks for even where heads have another width."""
    return config.width - config.width % config.heads


def qkv_bias(config: Transformer) -> bool:
    return config.qkv_bias


UNGROUPED = {"groups": heads, "channels": share_of_width, "qk_norm": False}
"""Heads that share nothing and divide the width."""

BIASED = {"norm": "layer", "gain": True, "bias": True}


def rope(config: Transformer) -> dict[str, Any]:
    """The entries that say how queries and keys turn."""
    entries: dict[str, Any] = {"rope_type": config.rope_scaling or "default", "rope_theta": config.rope_base}
    if config.rope_share < 1:
        share = config.rope_share
        exact = int(config.channels * share) == config.rotated
        entries["partial_rotary_factor"] = share if exact else (config.rotated + 0.5) / config.channels
    if config.rope_scaling is not None:
        entries["factor"] = config.rope_factor
    if config.rope_scaling == "llama3":
        entries |= {
            "low_freq_factor": config.rope_low,
            "high_freq_factor": config.rope_high,
            "original_max_position_embeddings": config.rope_original,
        }
    return {"rope_parameters": entries, "rope_theta": config.rope_base}


def turns(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of rotary positions, in the words of transformers 5 or of those before.

    Raises:
        DataError: wavelengths are stretched as none here are.
    """
    rope = there.get("rope_parameters") or there.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise TypeError("rope_parameters")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        what = f"rope_parameters.rope_type is {kind}"
        raise DataError(where, what, "give a model of this family where it is default, linear or llama3")
    base = rope.get("rope_theta", there.get("rope_theta", there.get("rotary_emb_base", 10_000.0)))
    options: dict[str, Any] = {"rope_base": float(base)}
    if kind != "default":
        options |= {"rope_scaling": kind, "rope_factor": float(rope["factor"])}
    if kind == "llama3":
        options |= {
            "rope_low": float(rope["low_freq_factor"]),
            "rope_high": float(rope["high_freq_factor"]),
            "rope_original": int(rope["original_max_position_embeddings"]),
        }
    return options


def apart(names: tuple[str, str, str], form: Form = PLAIN) -> dict[tuple[str, ...], To]:
    """Queries, keys and values in tensors of their own; the first two in a form."""
    forms = (form, form, PLAIN)
    return {(ours,): To(theirs, each) for ours, theirs, each in zip(QKV, names, forms, strict=True)}


LEARNED = {"positions": "learned", "rope_share": 1.0, "rope_scaling": None}
