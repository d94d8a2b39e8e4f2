"""Llama and what came of it, and nanochat."""

from __future__ import annotations

from dataclasses import replace

from groundup.interop.families.shared import BLOCK, QKV, SIZES, qkv_bias, rope, share_of_width, turns, whole_heads
from groundup.interop.family import BASE, GATES, Family, To
from groundup.interop.form import PLAIN, Form, swapped_halves

ROTARY = {"positions": "rotary", "norm": "rms", "parallel": None, "rope_share": 1.0}


def _llama_modules(query_and_key: Form, gated: bool, normed: bool, gain: bool) -> dict[tuple[str, ...], To]:
    """Llama's names, which later models kept."""
    layer = "model.layers.{}."
    modules: dict[tuple[str, ...], To] = {
        ("trunk.embedding",): To("model.embed_tokens"),
        (QKV[0],): To(f"{layer}self_attn.q_proj", query_and_key),
        (QKV[1],): To(f"{layer}self_attn.k_proj", query_and_key),
        (QKV[2],): To(f"{layer}self_attn.v_proj"),
        (f"{BLOCK}attention.output",): To(f"{layer}self_attn.o_proj"),
        ("head",): To("lm_head"),
    }
    dense = {"up": "fc1", "down": "fc2"}
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"} if gated else dense
    modules |= {(f"{BLOCK}feedforward.{ours}",): To(f"{layer}mlp.{theirs}") for ours, theirs in names.items()}
    if normed:
        modules[(f"{BLOCK}attention.query_norm",)] = To(f"{layer}self_attn.q_norm")
        modules[(f"{BLOCK}attention.key_norm",)] = To(f"{layer}self_attn.k_norm")
    if gain:
        modules[(f"{BLOCK}attention_norm",)] = To(f"{layer}input_layernorm")
        modules[(f"{BLOCK}feedforward_norm",)] = To(f"{layer}post_attention_layernorm")
        modules[("trunk.norm",)] = To("model.norm")
    return modules


LLAMA_KEYS = {**SIZES, "intermediate_size": "feedforward", "num_key_value_heads": "groups", "rms_norm_eps": "norm_eps"}
LLAMA_DEFAULTS = {"tie_word_embeddings": False, "num_key_value_heads": None, "rms_norm_eps": 1e-6}

NANOCHAT = Family(
    model_type="nanochat",
    architecture="NanoChatForCausalLM",
    parts={
        **{key: value for key, value in BASE.items() if key != "softcap"},
        **ROTARY,
        "rope_scaling": None,
        "channels": share_of_width,
        "gain": False,
        "embedding_norm": True,
        "qk_norm": True,
        "activation": "relu2",
        "bias": False,
        "qkv_bias": False,
        "mixed_bias": False,
    },
    keys={**LLAMA_KEYS, "final_logit_softcapping": "softcap"},
    defaults={**LLAMA_DEFAULTS, "final_logit_softcapping": 15.0},
    fixed={"hidden_act": "relu2", "attention_bias": False},
    written={"attention_dropout": 0.0},
    modules=_llama_modules(Form(order=swapped_halves), gated=False, normed=False, gain=False),
    prefix="model.",
    reads=turns,
    writes=rope,
)
"""The default decoder's twin (Karpathy 2025, nanochat): squared ReLU, norms without gains, also of queries and keys."""

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    parts={**BASE, **ROTARY, "width": whole_heads, "gain": True, "qk_norm": False, "mixed_bias": qkv_bias},
    keys={**LLAMA_KEYS, "head_dim": "channels", "attention_bias": "qkv_bias", "mlp_bias": "bias"},
    defaults={**LLAMA_DEFAULTS, "head_dim": None, "attention_bias": False, "mlp_bias": False},
    written={"attention_dropout": 0.0},
    activation=("hidden_act", GATES),
    modules=_llama_modules(PLAIN, gated=True, normed=False, gain=True),
    prefix="model.",
    reads=turns,
    writes=rope,
)
"""Llama (Touvron et al. 2023; Grattafiori et al. 2024)."""

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    parts={
        **{key: value for key, value in BASE.items() if key != "sliding_window"},
        **ROTARY,
        "gain": True,
        "qk_norm": False,
        "bias": False,
        "qkv_bias": False,
        "mixed_bias": False,
    },
    keys={**LLAMA_KEYS, "head_dim": "channels", "sliding_window": "sliding_window"},
    defaults={**LLAMA_DEFAULTS, "num_key_value_heads": 8, "head_dim": None, "sliding_window": 4096},
)
"""Mistral (Jiang et al. 2023): Llama with a sliding window."""

MIXTRAL = replace(
    MISTRAL,
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    parts={
        **{key: value for key, value in MISTRAL.parts.items() if key != "experts"},
        "experts_every": 1,
        "experts": lambda config: config.experts or 8,
    },
    keys={**MISTRAL.keys, "num_local_experts": "experts", "num_experts_per_tok": "experts_per_token"},
    defaults={**MISTRAL.defaults, "rms_norm_eps": 1e-5, "sliding_window": None}
    | {"num_local_experts": 8, "num_experts_per_tok": 2},
    modules={
        **{ours: to for ours, to in MISTRAL.modules.items() if ".feedforward." not in ours[0]},
        (f"{BLOCK}feedforward.router",): To("model.layers.{}.block_sparse_moe.gate"),
        (f"{BLOCK}feedforward.gate",): To("model.layers.{}.block_sparse_moe.experts.{expert}.w1"),
        (f"{BLOCK}feedforward.down",): To("model.layers.{}.block_sparse_moe.experts.{expert}.w2"),
        (f"{BLOCK}feedforward.up",): To("model.layers.{}.block_sparse_moe.experts.{expert}.w3"),
    },
)
"""Mixtral (Jiang et al. 2024): Mistral with experts in every layer."""

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    parts={**BASE, **ROTARY, "gain": True, "qk_norm": True, "bias": False, "mixed_bias": qkv_bias},
    keys={**LLAMA_KEYS, "head_dim": "channels", "attention_bias": "qkv_bias"},
    defaults={**LLAMA_DEFAULTS, "head_dim": 128, "attention_bias": False},
    fixed={"use_sliding_window": False},
    modules=_llama_modules(PLAIN, gated=True, normed=True, gain=True),
)
"""Qwen 3 (Yang et al. 2025): Llama with normed queries and keys."""
