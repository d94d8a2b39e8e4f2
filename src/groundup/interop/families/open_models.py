"""GPT-NeoX and Pythia, OPT and Galactica, and BLOOM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.interop.families.shared import (
    BIASED,
    BLOCK,
    LEARNED,
    QKV,
    SIZES,
    UNGROUPED,
    apart,
    qkv_bias,
    rope,
    turns,
)
from groundup.interop.family import ACTIVATIONS, BASE, Family, To
from groundup.interop.form import Form
from groundup.model.options import Transformer


def _four_widths(config: Transformer) -> int:
    return 4 * config.width


def _neox_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = there.get("rope_parameters") or {}
    share = float(parameters.get("partial_rotary_factor", there.get("rotary_pct", 0.25)))
    parallel = "two_norms" if there.get("use_parallel_residual", True) else None
    return {**turns(there, where), "rope_share": share, "parallel": parallel}


def _neox_out(config: Transformer) -> dict[str, Any]:
    entries = rope(config)
    entries["rope_parameters"].setdefault("partial_rotary_factor", config.rope_share)
    share = entries["rope_parameters"]["partial_rotary_factor"]
    return {**entries, "rotary_pct": share, "use_parallel_residual": config.parallel is not None}


NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    parts={
        **BASE,
        **UNGROUPED,
        **BIASED,
        "positions": "rotary",
        "mixed_bias": qkv_bias,
        "parallel": lambda config: None if config.parallel is None else "two_norms",
    },
    keys={
        **SIZES,
        "intermediate_size": "feedforward",
        "layer_norm_eps": "norm_eps",
        "attention_bias": "qkv_bias",
    },
    defaults={"tie_word_embeddings": False, "layer_norm_eps": 1e-5, "attention_bias": True, "hidden_act": "gelu"},
    written={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    activation=("hidden_act", ACTIVATIONS),
    modules={
        ("trunk.embedding",): To("gpt_neox.embed_in"),
        (f"{BLOCK}attention_norm",): To("gpt_neox.layers.{}.input_layernorm"),
        QKV: To("gpt_neox.layers.{}.attention.query_key_value", Form(by_head=True)),
        (f"{BLOCK}attention.output",): To("gpt_neox.layers.{}.attention.dense"),
        (f"{BLOCK}feedforward_norm",): To("gpt_neox.layers.{}.post_attention_layernorm"),
        (f"{BLOCK}feedforward.up",): To("gpt_neox.layers.{}.mlp.dense_h_to_4h"),
        (f"{BLOCK}feedforward.down",): To("gpt_neox.layers.{}.mlp.dense_4h_to_h"),
        ("trunk.norm",): To("gpt_neox.final_layer_norm"),
        ("head",): To("embed_out"),
    },
    prefix="gpt_neox.",
    ignored=(".attention.bias", ".attention.masked_bias"),
    reads=_neox_in,
    writes=_neox_out,
)
"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023)."""


def _place(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    del where
    return {"norm_place": "pre" if there.get("do_layer_norm_before", True) else "post"}


def _projected(config: Transformer) -> int | None:
    """The width of an embedding of its own; there a matrix stands between two widths only if they differ."""
    return None if config.embedding_width == config.width else config.embedding_width


OPT = Family(
    model_type="opt",
    architecture="OPTForCausalLM",
    parts={
        **{key: value for key, value in BASE.items() if key != "norm_place"},
        "embedding_width": _projected,
        **UNGROUPED,
        **LEARNED,
        "norm": "layer",
        "norm_eps": 1e-5,
        "bias": lambda config: config.bias and config.gain,
        "qkv_bias": lambda config: config.bias,
        "mixed_bias": qkv_bias,
    },
    keys={**SIZES, "ffn_dim": "feedforward", "word_embed_proj_dim": "embedded", "enable_bias": "bias"}
    | {"layer_norm_elementwise_affine": "gain"},
    defaults={"tie_word_embeddings": True, "word_embed_proj_dim": None, "enable_bias": True}
    | {"activation_function": "relu", "layer_norm_elementwise_affine": True},
    fixed={"_remove_final_layer_norm": False},
    written={"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
    activation=("activation_function", ACTIVATIONS),
    modules={
        ("trunk.embedding",): To("model.decoder.embed_tokens"),
        ("trunk.project_in",): To("model.decoder.project_in"),
        ("trunk.positions",): To("model.decoder.embed_positions", Form(padding=2)),
        (f"{BLOCK}attention_norm",): To("model.decoder.layers.{}.self_attn_layer_norm"),
        **apart(
            (
                "model.decoder.layers.{}.self_attn.q_proj",
                "model.decoder.layers.{}.self_attn.k_proj",
                "model.decoder.layers.{}.self_attn.v_proj",
            )
        ),
        (f"{BLOCK}attention.output",): To("model.decoder.layers.{}.self_attn.out_proj"),
        (f"{BLOCK}feedforward_norm",): To("model.decoder.layers.{}.final_layer_norm"),
        (f"{BLOCK}feedforward.up",): To("model.decoder.layers.{}.fc1"),
        (f"{BLOCK}feedforward.down",): To("model.decoder.layers.{}.fc2"),
        ("trunk.norm",): To("model.decoder.final_layer_norm"),
        ("trunk.project_out",): To("model.decoder.project_out"),
        ("head",): To("lm_head"),
    },
    zeros=(f"{BLOCK}attention_norm", f"{BLOCK}feedforward_norm", "trunk.norm"),
    prefix="model.",
    reads=_place,
    writes=lambda config: {"do_layer_norm_before": config.norm_place == "pre"},
)
"""OPT (Zhang et al. 2022) and, without biases, Galactica (Taylor et al. 2022)."""

BLOOM = Family(
    model_type="bloom",
    architecture="BloomForCausalLM",
    parts={
        **BASE,
        **UNGROUPED,
        **BIASED,
        **LEARNED,
        "positions": "alibi",
        "embedding_norm": True,
        "qkv_bias": True,
        "mixed_bias": True,
        "activation": "gelu_tanh",
        "feedforward": _four_widths,
    },
    keys={
        "vocab_size": "vocabulary",
        "hidden_size": "width",
        "n_layer": "layers",
        "n_head": "heads",
        "seq_length": "context",
        "layer_norm_epsilon": "norm_eps",
        "tie_word_embeddings": "tied",
    },
    defaults={"seq_length": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    fixed={"apply_residual_connection_post_layernorm": False},
    written={"hidden_dropout": 0.0, "attention_dropout": 0.0},
    modules={
        ("trunk.embedding",): To("transformer.word_embeddings"),
        ("trunk.embedding_norm",): To("transformer.word_embeddings_layernorm"),
        (f"{BLOCK}attention_norm",): To("transformer.h.{}.input_layernorm"),
        QKV: To("transformer.h.{}.self_attention.query_key_value", Form(by_head=True)),
        (f"{BLOCK}attention.output",): To("transformer.h.{}.self_attention.dense"),
        (f"{BLOCK}feedforward_norm",): To("transformer.h.{}.post_attention_layernorm"),
        (f"{BLOCK}feedforward.up",): To("transformer.h.{}.mlp.dense_h_to_4h"),
        (f"{BLOCK}feedforward.down",): To("transformer.h.{}.mlp.dense_4h_to_h"),
        ("trunk.norm",): To("transformer.ln_f"),
        ("head",): To("lm_head"),
    },
    prefix="transformer.",
)
"""BLOOM (BigScience 2022)."""
