"""Models with GPT-2's names: GPT-2 itself, GPT-J and GPT-Neo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.core.errors import DataError
from groundup.interop.families.shared import BIASED, BLOCK, LEARNED, QKV, UNGROUPED, apart
from groundup.interop.family import ACTIVATIONS, BASE, Family, To
from groundup.interop.form import PLAIN, Form, side_by_side
from groundup.model.options import Transformer

CONV1D = Form(transposed=True)
"""GPT-2's own linear map, whose matrices have inputs first."""

GPT2_SIZES = {
    "vocab_size": "vocabulary",
    "n_positions": "context",
    "n_embd": "width",
    "n_layer": "layers",
    "n_head": "heads",
    "n_inner": "feedforward",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
}


def _gpt2_modules(
    attention: str, output: str, up: str, down: str, qkv: dict[tuple[str, ...], To], matrix: Form = PLAIN
) -> dict[Any, To]:
    """GPT-2's names, which models after it kept with other parts; `matrix` is the form of those that are not fused."""
    layer = "transformer.h.{}."
    return {
        ("trunk.embedding",): To("transformer.wte"),
        ("trunk.positions",): To("transformer.wpe"),
        (f"{BLOCK}attention_norm",): To(f"{layer}ln_1"),
        **qkv,
        (f"{BLOCK}attention.output",): To(f"{layer}{attention}{output}", matrix),
        (f"{BLOCK}feedforward_norm",): To(f"{layer}ln_2"),
        (f"{BLOCK}feedforward.up",): To(f"{layer}mlp.{up}", matrix),
        (f"{BLOCK}feedforward.down",): To(f"{layer}mlp.{down}", matrix),
        ("trunk.norm",): To("transformer.ln_f"),
        ("head",): To("lm_head"),
    }


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    parts={**BASE, **UNGROUPED, **BIASED, **LEARNED, "qkv_bias": True, "mixed_bias": True},
    keys=GPT2_SIZES,
    defaults={
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "activation_function": "gelu_new",
    },
    fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    written={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    activation=("activation_function", ACTIVATIONS),
    modules=_gpt2_modules(
        "attn.", "c_proj", "c_fc", "c_proj", {QKV: To("transformer.h.{}.attn.c_attn", CONV1D)}, CONV1D
    ),
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),
)
"""GPT-2 (Radford et al. 2019); GPT-3's dense layers and MT-NLG have its parts."""


def _rotary_dim(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    del where
    return {"rope_share": int(there.get("rotary_dim", 64)) * int(there["n_head"]) / int(there["n_embd"])}


GPTJ = Family(
    model_type="gptj",
    architecture="GPTJForCausalLM",
    parts={
        **BASE,
        **UNGROUPED,
        **BIASED,
        "positions": "rotary",
        "rope_base": 10_000.0,
        "rope_scaling": None,
        "parallel": "one_norm",
        "qkv_bias": False,
        "mixed_bias": False,
        "head_bias": True,
    },
    keys=GPT2_SIZES,
    defaults={
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "activation_function": "gelu_new",
    },
    written={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    activation=("activation_function", ACTIVATIONS),
    modules=_gpt2_modules(
        "attn.",
        "out_proj",
        "fc_in",
        "fc_out",
        apart(
            ("transformer.h.{}.attn.q_proj", "transformer.h.{}.attn.k_proj", "transformer.h.{}.attn.v_proj"),
            Form(order=side_by_side),
        ),
    ),
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias", ".attn.embed_positions"),
    reads=_rotary_dim,
    writes=lambda config: {"rotary_dim": config.rotated},
)
"""GPT-J (Wang & Komatsuzaki 2021)."""


def _local_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Which layers have the window: every n-th, or none.

    Raises:
        DataError: they follow another rule.
    """
    kinds = [kind for group, times in there["attention_types"] for _ in range(int(times)) for kind in group]
    local = [number for number, kind in enumerate(kinds) if kind == "local"]
    if not local:
        return {"sliding_window": None}
    every = local[0] + 1
    if local != list(range(local[0], len(kinds), every)):
        raise DataError(where, f"attention_types is {there['attention_types']}", "give one with every n-th layer local")
    return {"sliding_window": int(there.get("window_size", 256)), "sliding_every": every}


def _local_out(config: Transformer) -> dict[str, Any]:
    kinds = ["local" if layer in config.sliding_layers else "global" for layer in range(config.layers)]
    return {"attention_types": [[kinds, 1]], "window_size": config.sliding_window or 256}


NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    parts={
        **{key: value for key, value in BASE.items() if not key.startswith("sliding")},
        **UNGROUPED,
        **BIASED,
        **LEARNED,
        "scaled_scores": False,
        "qkv_bias": False,
        "mixed_bias": True,
    },
    keys={
        "vocab_size": "vocabulary",
        "max_position_embeddings": "context",
        "hidden_size": "width",
        "num_layers": "layers",
        "num_heads": "heads",
        "intermediate_size": "feedforward",
        "layer_norm_epsilon": "norm_eps",
        "tie_word_embeddings": "tied",
    },
    defaults={"intermediate_size": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    | {"activation_function": "gelu_new"},
    written={"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0},
    activation=("activation_function", ACTIVATIONS),
    modules=_gpt2_modules(
        "attn.attention.",
        "out_proj",
        "c_fc",
        "c_proj",
        apart(
            (
                "transformer.h.{}.attn.attention.q_proj",
                "transformer.h.{}.attn.attention.k_proj",
                "transformer.h.{}.attn.attention.v_proj",
            )
        ),
    ),
    prefix="transformer.",
    ignored=(".attention.bias", ".attention.masked_bias"),
    reads=_local_in,
    writes=_local_out,
)
"""GPT-Neo (Black et al. 2021): GPT-3's alternating dense and local layers, with scores that are not scaled."""
