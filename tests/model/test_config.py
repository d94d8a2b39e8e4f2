"""The networks' configs refuse what cannot be built, in one line, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "where", "words"),
    [
        ({"heads": 5}, "model.heads=5", "does not divide width=32; choose from 1, 2, 4, 8, 16, 32"),
        ({"kv_heads": 3}, "model.kv_heads=3", "does not divide heads=4; choose from 1, 2, 4"),
        ({"width": 12, "heads": 4}, "model.heads=4", "leaves 3 channels per head"),
        ({"activation": "relu3"}, "model.activation=relu3", "allowed: relu2, relu, gelu"),
        ({"positions": "xpos"}, "model.positions=xpos", "rotary, learned, sinusoidal, alibi"),
        ({"head_dim": 7}, "model.head_dim=7", "leaves 7 channels per head"),
        ({"rope_share": 0.4}, "model.heads=4", "leaves 8 channels per head, 3 of which turn,"),
        ({"positions": "learned", "rope_share": 0.5}, "model.rope_share=0.5", "no meaning with positions=learned"),
        ({"positions": "none", "rope_scaling": "linear"}, "model.rope_scaling=linear", "set positions=rotary"),
        ({"rope_scaling": "llama3"}, "model.rope_scaling=llama3", "needs rope_original"),
        ({"width": 33, "heads": 3, "positions": "sinusoidal"}, "model.width=33", "is odd"),
        ({"sliding_every": 2}, "model.sliding_every=2", "give sliding_window=N"),
        ({"sliding_window": 4, "sliding_every": 3}, "model.sliding_every=3", "at most sliding_every=2"),
        ({"norm_place": "post"}, "model.init=modern", "set init=gpt2"),
        (
            {"norm_place": "post", "init": "gpt2", "parallel": "one_norm"},
            "model.parallel=one_norm",
            "no meaning with norm_place=post",
        ),
        ({"embedding_width": 8, "value_embeddings": True}, "model.value_embeddings=true", "embedding_width"),
        ({"dropout": 1.0}, "model.dropout=1.0", "below 1"),
        ({"layers": 0}, "model.layers=0", "at least 1"),
        ({"softcap": 0.0}, "model.softcap=0.0", "above 0"),
        ({"init_std": 0.02}, "model.init_std=0.02", "no meaning with init=modern"),
        ({"head": 4}, "model.head", "did you mean heads?"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused_in_one_line(
    configure: Callable[..., Any], options: dict[str, Any], where: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(**options)
    assert caught.value.where == where
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "where", "words"),
    [
        ("encoder", {"heads": 5}, "model.heads=5", "does not divide width=32; choose from 1, 2, 4, 8, 16, 32"),
        ("encoder_decoder", {"kv_heads": 3}, "model.kv_heads=3", "does not divide heads=4; choose from 1, 2, 4"),
        ("encoder", {"width": 12}, "model.heads=4", "leaves 3 channels per head and rotary positions turn pairs"),
        ("encoder_decoder", {"head_dim": 7}, "model.head_dim=7", "leaves 7 channels per head"),
        ("encoder", {"mask": "prefix"}, "model.mask=prefix", "allowed: full"),
        ("encoder_decoder", {"mask": "full"}, "model.mask=full", "allowed: causal"),
        ("decoder", {"mask": "full"}, "model.mask=full", "allowed: causal, prefix"),
        ("encoder", {"shift": True}, "model.shift=true", "looks back only, and mask=full also ahead"),
        ("encoder", {"sliding_window": 4}, "model.sliding_window=4", "looks back only, and mask=full also ahead"),
        ("encoder_decoder", {"shift": True}, "model.shift=true", "looks back only, and an encoder also ahead"),
        ("encoder_decoder", {"sliding_window": 4}, "model.sliding_window=4", "an encoder also ahead"),
        ("encoder_decoder", {"parallel": "one_norm"}, "model.parallel=one_norm", "not defined for two stacks"),
        ("encoder_decoder", {"embedding_width": 8}, "model.embedding_width=8", "not defined for two stacks"),
        ("encoder_decoder", {"encoder_layers": 0}, "model.encoder_layers=0", "at least 1"),
        ("encoder", {"encoder_layers": 2}, "model.encoder_layers", "is not an option of encoder"),
        ("encoder", {"segments": 0}, "model.segments=0", "at least 1"),
        ("encoder", {"positions": "t5", "buckets": 3}, "model.buckets=3", "at least 4"),
        ("encoder", {"positions": "t5", "farthest": 16}, "model.farthest=16", "set it above 16"),
        ("decoder", {"norm": "batch", "qk_norm": False}, "model.norm=batch", "what stands behind it"),
        ("decoder", {"norm": "batch", "qk_norm": False, "mask": "prefix"}, "model.norm=batch", "objective=masked"),
        ("encoder_decoder", {"norm": "batch", "qk_norm": False}, "model.norm=batch", "what stands behind it"),
        ("encoder", {"norm": "batch"}, "model.qk_norm=true", "set qk_norm=false"),
        (
            "encoder",
            {"norm": "none"},
            "model.norm=none",
            "set norm=none init=t_fixup qk_norm=false embedding_norm=false",
        ),
        ("encoder_decoder", {"init": "t_fixup"}, "model.norm=rms", "T-Fixup is how a network without norms begins"),
        ("decoder", {"norm": "none", "init": "t_fixup"}, "model.qk_norm=true", "no meaning with norm=none"),
        ("encoder", {"norm_place": "post"}, "model.init=modern", "set init=gpt2"),
    ],
)
def test_a_network_of_any_kind_that_cannot_be_is_refused_in_one_line(
    configure: Callable[..., Any], kind: str, options: dict[str, Any], where: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(kind=kind, **options)
    assert caught.value.where == where
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_odd_channels_are_fine_with_learned_positions(configure: Callable[..., Any]) -> None:
    assert configure(width=12, heads=4, positions="learned").channels == 3


@pytest.mark.parametrize("name", ["vocabulary", "context"])
def test_what_the_data_decide_may_be_open_until_the_network_is_built(configure: Callable[..., Any], name: str) -> None:
    config = configure(**{name: None})
    with pytest.raises(ConfigError, match=f"{name}: is null"):
        config.build()


def test_a_config_comes_back_from_its_dict(odd_configs: list[Any], odd_stacks: list[Any]) -> None:
    for config in (*odd_configs, *odd_stacks):
        assert from_dict("model", to_dict(config)) == config


def test_the_config_and_the_counts_need_no_torch() -> None:
    code = "import sys, groundup.model.config, groundup.model.count; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
