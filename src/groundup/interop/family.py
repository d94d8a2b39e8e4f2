"""Which of Hugging Face's architectures a network is, and how names, options and channels map; it opens no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundup.core.errors import ConfigError, DataError
from groundup.model.config import Decoder

NORMS = {
    "trunk.norm": "model.norm",
    "trunk.blocks.{}.attention_norm": "model.layers.{}.input_layernorm",
    "trunk.blocks.{}.feedforward_norm": "model.layers.{}.post_attention_layernorm",
}
SHARED = {
    "trunk.embedding": "model.embed_tokens",
    "head": "lm_head",
    "trunk.blocks.{}.attention.query": "model.layers.{}.self_attn.q_proj",
    "trunk.blocks.{}.attention.key": "model.layers.{}.self_attn.k_proj",
    "trunk.blocks.{}.attention.value": "model.layers.{}.self_attn.v_proj",
    "trunk.blocks.{}.attention.output": "model.layers.{}.self_attn.o_proj",
    **NORMS,
}
TURNED = ("attention.query.weight", "attention.key.weight")


@dataclass(frozen=True)
class Family:
    """An architecture of transformers that some decoders are.

    Attributes:
        model_type: its name in `config.json`.
        architecture: the class that has a head.
        parts: options of `Decoder` that a network of the family must have.
        names: modules here and there; `{}` stands for the layer's number.
        turns_back: it rotates queries and keys the other way round; since a turn of a pair (a, b) by -t is one of
            (b, a) by t, the halves of each head's query and key channels change places.
        options: further entries of `config.json`.
    """

    model_type: str
    architecture: str
    parts: Mapping[str, Any]
    names: Mapping[str, str]
    turns_back: bool
    options: Mapping[str, Any]

    def misfits(self, config: Decoder) -> list[str]:
        """The options of a network, as a user would write them, that the family has otherwise."""
        return [
            f"{key}={_said(getattr(config, key))} (not {_said(value)})"
            for key, value in self.parts.items()
            if getattr(config, key) != value
        ]

    def describe(self, config: Decoder, end: int) -> dict[str, Any]:
        """The content of `config.json`.

        Args:
            config: a closed config of this family.
            end: the id between documents, which also stands before a text.
        """
        vocabulary, context = config.closed()
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": vocabulary,
            "hidden_size": config.width,
            "intermediate_size": config.feedforward,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.groups,
            "max_position_embeddings": context,
            "rms_norm_eps": config.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
            "rope_theta": config.rope_base,
            "attention_dropout": 0.0,
            "attention_bias": False,
            "tie_word_embeddings": config.tied,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "dtype": "float32",
            **self.options,
            **({"final_logit_softcapping": config.softcap} if "softcap" not in self.parts else {}),
        }

    def config(self, there: Mapping[str, Any], where: str) -> Decoder:
        """The network that a `config.json` of this family describes.

        Raises:
            DataError: it has something that no network here has.
        """
        heads = int(there["num_attention_heads"])
        groups = int(there.get("num_key_value_heads") or heads)
        rope = there.get("rope_parameters") or there.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise TypeError("rope_parameters")
        if not (
            math.isfinite(float(rope.get("rope_theta", 1.0)))
            and there.get("tie_word_embeddings", False) in (True, False)
        ):
            raise ValueError("rope_theta, tie_word_embeddings")
        kept = {
            "quantization_config": (there.get("quantization_config"), None),
            "rope_parameters.rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
            "head_dim": (there.get("head_dim") or there["hidden_size"] // heads, there["hidden_size"] // heads),
            "attention_bias": (there.get("attention_bias", False), False),
            **{key: (there.get(key, value), value) for key, value in self.options.items()},
        }
        for key, (given, known) in kept.items():
            if given != known:
                raise DataError(where, f"{key} is {given}", f"give a model of this family where it is {known}")
        softcap = {} if "softcap" in self.parts else {"softcap": there.get("final_logit_softcapping", 15.0)}
        return Decoder(
            layers=int(there["num_hidden_layers"]),
            width=int(there["hidden_size"]),
            heads=heads,
            kv_heads=None if groups == heads else groups,
            hidden=int(there["intermediate_size"]),
            context=int(there["max_position_embeddings"]),
            vocabulary=int(there["vocab_size"]),
            rope_base=float(rope.get("rope_theta", there.get("rope_theta", 10_000.0))),
            norm_eps=float(there.get("rms_norm_eps", 1e-6)),
            tied=bool(there.get("tie_word_embeddings", False)),
            **{**self.parts, **softcap},
        )

    def pairs(self, config: Decoder) -> Iterator[tuple[str, str]]:
        """Names of the tensors here and there."""
        for ours, theirs in self.names.items():
            if (ours in NORMS and not config.gain) or (ours == "head" and config.tied):
                continue
            for layer in range(config.layers) if "{}" in ours else (0,):
                yield f"{ours.format(layer)}.weight", f"{theirs.format(layer)}.weight"

    def repeats(self, theirs: str, config: Decoder) -> bool:
        """Whether a tensor of theirs says nothing that the config and other tensors do not say."""
        return theirs.endswith("rotary_emb.inv_freq") or (theirs == "lm_head.weight" and config.tied)

    def turned(self, name: str, tensor: Tensor, config: Decoder) -> Tensor:
        """A tensor as the other side has it; the same both ways."""
        if not (self.turns_back and name.endswith(TURNED)):
            return tensor
        halves = tensor.view(-1, 2, config.channels // 2, tensor.shape[1])
        return halves.flip(1).reshape(tensor.shape)


_PLAIN = {
    "positions": "rotary",
    "norm": "rms",
    "bias": False,
    "mixing": False,
    "value_embeddings": False,
    "shift": False,
}

NANOCHAT = Family(
    model_type="nanochat",
    architecture="NanoChatForCausalLM",
    parts={**_PLAIN, "activation": "relu2", "gain": False, "embedding_norm": True, "qk_norm": True},
    names={
        **SHARED,
        "trunk.blocks.{}.feedforward.up": "model.layers.{}.mlp.fc1",
        "trunk.blocks.{}.feedforward.down": "model.layers.{}.mlp.fc2",
    },
    turns_back=True,
    options={"hidden_act": "relu2"},
)
"""The default decoder's twin (Karpathy 2025, nanochat): squared ReLU, norms without gains, also of queries and keys."""

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    parts={
        **_PLAIN,
        "activation": "swiglu",
        "gain": True,
        "embedding_norm": False,
        "qk_norm": False,
        "softcap": None,
    },
    names={
        **SHARED,
        "trunk.blocks.{}.feedforward.gate": "model.layers.{}.mlp.gate_proj",
        "trunk.blocks.{}.feedforward.up": "model.layers.{}.mlp.up_proj",
        "trunk.blocks.{}.feedforward.down": "model.layers.{}.mlp.down_proj",
    },
    turns_back=False,
    options={"hidden_act": "silu", "mlp_bias": False},
)
"""Llama (Touvron et al. 2023)."""

FAMILIES = (NANOCHAT, LLAMA)


def family_of(config: Decoder) -> Family:
    """The family that a network is of.

    Raises:
        ConfigError: there is none; told with what keeps it from the nearest one.
    """
    nearest = min(FAMILIES, key=lambda family: len(family.misfits(config)))
    misfits = nearest.misfits(config)
    if misfits:
        known = " or ".join(family.architecture for family in FAMILIES)
        raise ConfigError(
            f"model.{misfits[0]}",
            f"transformers has no such network: nearest is {nearest.architecture}, and {', '.join(misfits)}",
            f"export a network that is a {known}",
        )
    return nearest


def family_named(model_type: Any, where: str) -> Family:
    """The family with a `model_type`.

    Raises:
        DataError: none is known.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise DataError(where, f"is of model_type {model_type}", f"give a model of one of these: {known}")


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
