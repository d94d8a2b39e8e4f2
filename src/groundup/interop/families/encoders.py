"""BERT and RoBERTa."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from groundup.interop.families.shared import BIASED, BLOCK, LEARNED, SIZES, UNGROUPED, apart
from groundup.interop.family import ACTIVATIONS, BASE, Family, To
from groundup.interop.form import PLAIN, Form
from groundup.model.config import Encoder

if TYPE_CHECKING:
    from groundup.interop.theirs import Theirs


def _modules(name: str, positions: Form, head: Mapping[str, str]) -> dict[tuple[str, ...], To]:
    """BERT's names below `name`; those of the head are others in RoBERTa."""
    layer = f"{name}.encoder.layer.{{}}."
    return {
        ("trunk.embedding",): To(f"{name}.embeddings.word_embeddings"),
        ("trunk.positions",): To(f"{name}.embeddings.position_embeddings", positions),
        ("trunk.segments",): To(f"{name}.embeddings.token_type_embeddings"),
        ("trunk.embedding_norm",): To(f"{name}.embeddings.LayerNorm"),
        **apart((f"{layer}attention.self.query", f"{layer}attention.self.key", f"{layer}attention.self.value")),
        (f"{BLOCK}attention.output",): To(f"{layer}attention.output.dense"),
        (f"{BLOCK}attention_norm",): To(f"{layer}attention.output.LayerNorm"),
        (f"{BLOCK}feedforward.up",): To(f"{layer}intermediate.dense"),
        (f"{BLOCK}feedforward.down",): To(f"{layer}output.dense"),
        (f"{BLOCK}feedforward_norm",): To(f"{layer}output.LayerNorm"),
        **{(f"head.{ours}",): To(theirs) for ours, theirs in head.items()},
    }


def _segments_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
    del where
    return {"segments": int(there.get("type_vocab_size", 2))}


def _segments_seen(config: Encoder, theirs: Theirs) -> dict[str, Any]:
    """A table of one kind of text that is all zeros is none."""
    tables = [name for name in theirs.names if name.endswith("token_type_embeddings.weight")]
    blank = config.segments == 1 and not any(theirs.tensor(name).any() for name in tables)
    return {"segments": None} if blank else {}


def _segments_out(config: Encoder) -> dict[str, Any]:
    return {"type_vocab_size": config.segments or 1}


BERT = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    kind=Encoder,
    parts={
        **{key: value for key, value in BASE.items() if key != "segments"},
        **UNGROUPED,
        **BIASED,
        **LEARNED,
        "mask": "full",
        "norm_place": "post",
        "qkv_bias": True,
        "mixed_bias": True,
        "embedding_norm": True,
        "head_bias": True,
        "head_transform": True,
    },
    keys={**SIZES, "intermediate_size": "feedforward", "layer_norm_eps": "norm_eps"},
    defaults={"tie_word_embeddings": True, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    fixed={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    written={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    activation=("hidden_act", ACTIVATIONS),
    modules=_modules(
        "bert",
        PLAIN,
        {
            "transform": "cls.predictions.transform.dense",
            "transform_norm": "cls.predictions.transform.LayerNorm",
            "weight": "cls.predictions.decoder.weight",
            "bias": "cls.predictions.decoder.bias",
        },
    ),
    blank=lambda config: {} if config.segments else {"bert.embeddings.token_type_embeddings.weight": (1, config.width)},
    copies={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    copied=True,
    spelt={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    ignored=(
        ".position_ids",
        "cls.predictions.bias",  # nothing reads it where the head has another
        "lm_head.bias",
        *(f"{module}.{tensor}" for module in ("pooler.dense", "seq_relationship") for tensor in ("weight", "bias")),
    ),
    reads=_segments_in,
    writes=_segments_out,
    seen=_segments_seen,
)
"""BERT (Devlin et al. 2019), with the head of its masked language model."""


def roberta(pad: int) -> Family:
    """RoBERTa, whose positions stand behind as many rows as ids up to that of padding."""

    def positions_in(there: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {**_segments_in(there, where), "context": int(there["max_position_embeddings"]) - pad - 1}

    def positions_out(config: Encoder) -> dict[str, Any]:
        return {**_segments_out(config), "max_position_embeddings": config.closed()[1] + pad + 1}

    return replace(
        BERT,
        model_type="roberta",
        architecture="RobertaForMaskedLM",
        parts={**BERT.parts, "activation": "gelu"},
        keys={theirs: ours for theirs, ours in BERT.keys.items() if ours != "context"},
        fixed={**BERT.fixed, "hidden_act": "gelu"},
        activation=None,
        modules=_modules(
            "roberta",
            Form(padding=pad + 1),
            {
                "transform": "lm_head.dense",
                "transform_norm": "lm_head.layer_norm",
                "weight": "lm_head.decoder.weight",
                "bias": "lm_head.decoder.bias",
            },
        ),
        blank=lambda config: (
            {} if config.segments else {"roberta.embeddings.token_type_embeddings.weight": (1, config.width)}
        ),
        copies={"lm_head.bias": "lm_head.decoder.bias"},
        padded=roberta,
        reads=positions_in,
        writes=positions_out,
    )


ROBERTA = roberta(1)
"""RoBERTa (Liu et al. 2019); its head's activation is always GELU."""
