"""Encoders with decoders: T5 and mT5, BART and mBART."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from groundup.core.errors import DataError
from groundup.interop.families.shared import BIASED, LEARNED, UNGROUPED, heads
from groundup.interop.family import ACTIVATIONS, BASE, GATES, Family, Modules, To
from groundup.interop.form import Form
from groundup.model.config import EncoderDecoder
from groundup.model.options import Transformer

if TYPE_CHECKING:
    from groundup.interop.theirs import Theirs

ENCODER, DECODER = "encoder.blocks.{}.", "trunk.blocks.{}."


def _attention(ours: str, theirs: str, names: str) -> dict[tuple[str, ...], To]:
    """An attention's matrices; `names` are those of query, key, value and output."""
    pairs = zip(("query", "key", "value", "output"), names.split(), strict=True)
    return {(f"{ours}.{mine}",): To(f"{theirs}.{name}") for mine, name in pairs}


def _t5_modules() -> dict[tuple[str, ...], To]:
    modules: dict[tuple[str, ...], To] = {("trunk.embedding",): To("shared"), ("head",): To("lm_head")}
    for ours, block, theirs in (("encoder", ENCODER, "encoder"), ("trunk", DECODER, "decoder")):
        layer, last = f"{theirs}.block.{{}}.layer.", 1 if theirs == "encoder" else 2
        modules |= _attention(f"{block}attention", f"{layer}0.SelfAttention", "q k v o")
        if theirs == "decoder":
            modules |= _attention(f"{block}cross_attention", f"{layer}1.EncDecAttention", "q k v o")
            modules[(f"{block}cross_norm",)] = To(f"{layer}1.layer_norm")
        modules |= {
            (f"{ours}.buckets",): To(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"),
            (f"{block}attention_norm",): To(f"{layer}0.layer_norm"),
            (f"{block}feedforward_norm",): To(f"{layer}{last}.layer_norm"),
            (f"{block}feedforward.down",): To(f"{layer}{last}.DenseReluDense.wo"),
            (f"{ours}.norm",): To(f"{theirs}.final_layer_norm"),
        }
    return modules


def _t5_feedforward(config: Transformer) -> Modules:
    """The matrices in front of the activation, whose names depend on how many there are."""
    names = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    return {
        (f"{block}feedforward.{ours}",): To(f"{layer}.DenseReluDense.{theirs}")
        for block, layer in ((ENCODER, "encoder.block.{}.layer.1"), (DECODER, "decoder.block.{}.layer.2"))
        for ours, theirs in names.items()
    }


def _t5_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Layers of both stacks, and whether the head's input is scaled, which once was said by the tie."""
    del where
    layers, tie = int(there["num_layers"]), there.get("tie_word_embeddings") is not False
    decoder = there.get("num_decoder_layers")
    return {
        "layers": layers if decoder is None else int(decoder),
        "encoder_layers": layers,
        "tied": tie,
        "scaled_logits": bool(there.get("scale_decoder_outputs", tie)),
    }


def _t5_out(config: EncoderDecoder) -> dict[str, Any]:
    layers = {"num_layers": config.encoder.layers, "num_decoder_layers": config.layers}
    return {**layers, "tie_word_embeddings": config.tied}


def _t5_tied(config: EncoderDecoder, theirs: Theirs) -> dict[str, Any]:
    """transformers ties the head whatever the config says, unless there is another."""
    del config
    own = {"lm_head.weight", "shared.weight"} <= theirs.names
    return {"tied": not own or torch.equal(theirs.tensor("lm_head.weight"), theirs.tensor("shared.weight"))}


T5 = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    kind=EncoderDecoder,
    parts={
        **BASE,
        "groups": heads,
        "qk_norm": False,
        "positions": "t5",
        "rope_share": 1.0,
        "rope_scaling": None,
        "scaled_scores": False,
        "norm": "rms",
        "gain": True,
        "bias": False,
        "qkv_bias": False,
        "mixed_bias": False,
        "scaled_logits": lambda config: config.tied,
    },
    keys={
        "vocab_size": "vocabulary",
        "d_model": "width",
        "num_heads": "heads",
        "d_kv": "channels",
        "d_ff": "feedforward",
        "n_positions": "context",
        "relative_attention_num_buckets": "buckets",
        "relative_attention_max_distance": "farthest",
        "layer_norm_epsilon": "norm_eps",
        "decoder_start_token_id": "start",
    },
    defaults={
        "n_positions": 512,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "relu",
    },
    written={"is_encoder_decoder": True, "dropout_rate": 0.0},
    activation=(
        "feed_forward_proj",
        {
            **ACTIVATIONS,
            "gated-gelu": "geglu_tanh",  # by their decree
            **{f"gated-{name}": ours for name, ours in GATES.items() if name != "gelu"},
        },
    ),
    modules=_t5_modules(),
    varied=_t5_feedforward,
    copies={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    ignored=("EncDecAttention.relative_attention_bias.weight",),
    sentinels=True,
    reads=_t5_in,
    writes=_t5_out,
    seen=_t5_tied,
)
"""T5 (Raffel et al. 2020), its version 1.1, UL2 (Tay et al. 2022) and ByT5 (Xue et al. 2022)."""

MT5 = replace(
    T5,
    model_type="mt5",
    architecture="MT5ForConditionalGeneration",
    parts={**T5.parts, "tied": False, "scaled_logits": False},
    defaults={**T5.defaults, "feed_forward_proj": "gated-gelu"},
    reads=lambda there, where: {**_t5_in(there, where), "scaled_logits": False},
)
"""mT5 (Xue et al. 2021)."""


def _bart_modules(final: bool) -> dict[tuple[str, ...], To]:
    modules: dict[tuple[str, ...], To] = {
        ("trunk.embedding",): To("model.shared"),
        ("head.weight",): To("lm_head.weight"),
        ("head.bias",): To("final_logits_bias", Form(row=True)),
    }
    for ours, block, theirs in (("encoder", ENCODER, "model.encoder."), ("trunk", DECODER, "model.decoder.")):
        layer = f"{theirs}layers.{{}}."
        modules |= _attention(f"{block}attention", f"{layer}self_attn", "q_proj k_proj v_proj out_proj")
        if ours == "trunk":
            modules |= _attention(f"{block}cross_attention", f"{layer}encoder_attn", "q_proj k_proj v_proj out_proj")
            modules[(f"{block}cross_norm",)] = To(f"{layer}encoder_attn_layer_norm")
        modules |= {
            (f"{ours}.positions",): To(f"{theirs}embed_positions", Form(padding=2)),
            (f"{ours}.embedding_norm",): To(f"{theirs}layernorm_embedding"),
            (f"{block}attention_norm",): To(f"{layer}self_attn_layer_norm"),
            (f"{block}feedforward_norm",): To(f"{layer}final_layer_norm"),
            (f"{block}feedforward.up",): To(f"{layer}fc1"),
            (f"{block}feedforward.down",): To(f"{layer}fc2"),
        }
        if final:
            modules[(f"{ours}.norm",)] = To(f"{theirs}layer_norm")
    return modules


def _bart_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The encoder's layers.

    Raises:
        DataError: the stacks differ in something else.
    """
    for name, default in (("attention_heads", 16), ("ffn_dim", 4096)):
        encoder, decoder = (there.get(f"{stack}_{name}", default) for stack in ("encoder", "decoder"))
        if encoder != decoder:
            what = f"encoder_{name} is {encoder}, and decoder_{name} {decoder}"
            raise DataError(where, what, "give a model of this family where they are the same")
    return {"encoder_layers": int(there.get("encoder_layers", 12))}


def _bart_out(config: EncoderDecoder) -> dict[str, Any]:
    sizes = {"encoder_attention_heads": config.heads, "encoder_ffn_dim": config.feedforward}
    return {"encoder_layers": config.encoder.layers, **sizes}


def _bart_bias(config: EncoderDecoder, theirs: Theirs) -> dict[str, Any]:
    """A bias of the logits that is all zeros is none."""
    del config
    name = "final_logits_bias"
    return {"head_bias": name in theirs.names and bool(theirs.tensor(name).any())}


BART = Family(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    kind=EncoderDecoder,
    parts={
        **{key: value for key, value in BASE.items() if key not in ("scaled_embedding", "head_bias")},
        **UNGROUPED,
        **BIASED,
        **LEARNED,
        "norm_place": "post",
        "norm_eps": 1e-5,
        "qkv_bias": True,
        "mixed_bias": True,
        "embedding_norm": True,
    },
    keys={
        "vocab_size": "vocabulary",
        "max_position_embeddings": "context",
        "d_model": "width",
        "decoder_layers": "layers",
        "decoder_attention_heads": "heads",
        "decoder_ffn_dim": "feedforward",
        "scale_embedding": "scaled_embedding",
        "tie_word_embeddings": "tied",
        "decoder_start_token_id": "start",
    },
    defaults={
        "max_position_embeddings": 1024,
        "decoder_layers": 12,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 2,
        "activation_function": "gelu",
    },
    written={
        "is_encoder_decoder": True,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
        **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), 0.0),
        "forced_eos_token_id": None,
    },
    activation=("activation_function", ACTIVATIONS),
    modules=_bart_modules(final=False),
    blank=lambda config: {} if config.head_bias else {"final_logits_bias": (1, config.closed()[0])},
    copies={f"model.{stack}.embed_tokens.weight": "model.shared.weight" for stack in ("encoder", "decoder")},
    copied=True,
    prefix="model.",
    ignored=("model.encoder.version", "model.decoder.version"),
    reads=_bart_in,
    writes=_bart_out,
    seen=_bart_bias,
)
"""BART (Lewis et al. 2020)."""

MBART = replace(
    BART,
    model_type="mbart",
    architecture="MBartForConditionalGeneration",
    parts={**BART.parts, "norm_place": "pre"},
    defaults={**BART.defaults, "decoder_start_token_id": None},
    modules=_bart_modules(final=True),
)
"""mBART (Liu et al. 2020): BART with norms before each part, and at the end of each stack."""
