"""Small networks for the laws of the model package."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the kinds

SMALL = {"kind": "decoder", "layers": 2, "width": 32, "heads": 4, "context": 16, "vocabulary": 61}

GPT2 = {
    "positions": "learned",
    "norm": "layer",
    "gain": True,
    "bias": True,
    "embedding_norm": False,
    "qk_norm": False,
    "activation": "gelu_tanh",
    "tied": True,
    "init": "gpt2",
}
LLAMA = {"gain": True, "embedding_norm": False, "qk_norm": False, "activation": "swiglu", "init": "gpt2"}
EXTRAS = {"mixing": True, "value_embeddings": True, "shift": True, "softcap": 15.0, "kv_heads": 2}
LOCAL = {**GPT2, "sliding_window": 5, "sliding_every": 2, "attention_bias": False, "output_bias": True}
PARALLEL = {**GPT2, "positions": "rotary", "rope_share": 0.5, "parallel": "two_norms", "tied": False, "head_bias": True}
PALM = {
    **LLAMA,
    "norm": "layer",
    "parallel": "one_norm",
    "kv_heads": 1,
    "head_dim": 6,
    "tied": True,
    "scaled_logits": True,
}
RECIPES = {
    "default": {},
    "gpt2": GPT2,
    "llama": LLAMA,
    "grouped": {"kv_heads": 2},
    "extras": EXTRAS,
    "gpt3": LOCAL,
    "neox": PARALLEL,
    "palm": PALM,
    "bloom": {**GPT2, "positions": "alibi", "embedding_norm": True},
    "gopher": {**GPT2, "positions": "transformer_xl", "norm": "rms"},
    "mistral": {**LLAMA, "sliding_window": 9, "rope_scaling": "linear", "rope_factor": 2.0},
    "sinusoidal": {**GPT2, "positions": "sinusoidal", "scaled_embedding": True, "activation": "geglu"},
    "opt-350m": {**GPT2, "norm_place": "post", "embedding_width": 12, "activation": "relu"},
    "mixtral": {**LLAMA, "experts": 4, "experts_every": 2},
    "nowhere": {"positions": "none", "scaled_scores": False},
}
"""Architectures whose every position sees all before it through the layers, in a window of 16."""


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of one of several architectures."""
    return RECIPES[request.param]


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads, and results do not depend on how many there are."""


@pytest.fixture
def configure() -> Callable[..., Any]:
    """A config of a small decoder, or network of another kind, with the given options."""
    return lambda **options: from_dict("model", {**SMALL, **options})


@pytest.fixture
def build(configure: Callable[..., Any]) -> Callable[..., Any]:
    """A small network in eval mode, all of whose weights are drawn at random, so that no zero hides a term."""

    def make(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
        torch.manual_seed(0)
        net = configure(**options).build().to(dtype).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return net

    return make


@pytest.fixture
def odd_configs(configure: Callable[..., Any]) -> list[Any]:
    """Thirty valid configs, drawn from all options."""
    draw = random.Random(0)
    configs = []
    for number in range(30):
        channels, groups, repeats = draw.choice([2, 4, 6, 10]), draw.choice([1, 2, 3]), draw.choice([1, 2, 5])
        positions = draw.choice(["rotary", "learned", "sinusoidal", "alibi", "transformer_xl", "none"])
        layers, place = draw.randint(1, 4), draw.choice(["pre", "pre", "post"])
        init = "gpt2" if place == "post" else ["modern", "gpt2"][number % 2]
        window, experts = draw.choice([None, 1, 5]), draw.choice([None, None, 3])
        names = ("gain", "embedding_norm", "qk_norm", "bias", "tied", "mixing", "shift", "head_bias")
        flags = {name: draw.random() < 0.5 for name in (*names, "scaled_logits", "scaled_embedding", "scaled_scores")}
        flags["bias"] = flags["bias"] and experts is None
        narrow = draw.choice([None, None, 9])
        configs.append(
            configure(
                layers=layers,
                width=channels * groups * repeats,
                heads=groups * repeats,
                kv_heads=draw.choice([groups, None]),
                head_dim=draw.choice([None, None, 4]),
                hidden=draw.choice([None, 7, 33]),
                context=draw.randint(1, 30),
                vocabulary=draw.randint(1, 99),
                embedding_width=narrow,
                positions=positions,
                rope_share=draw.choice([1.0, 0.5]) if positions == "rotary" and channels == 4 else 1.0,
                sliding_window=window,
                sliding_every=draw.randint(1, layers) if window else 1,
                experts=experts,
                experts_per_token=draw.randint(1, 3) if experts else 2,
                experts_every=draw.randint(1, layers) if experts else 1,
                attention_bias=draw.choice([None, True, False]),
                output_bias=draw.choice([None, True, False]),
                norm=draw.choice(["rms", "layer"]),
                norm_place=place,
                parallel=draw.choice([None, "one_norm", "two_norms"]) if place == "pre" else None,
                activation=draw.choice(["relu2", "relu", "gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh"]),
                value_embeddings=narrow is None and draw.random() < 0.5,
                init=init,
                init_std=draw.choice([None, 0.1]) if init == "gpt2" else None,
                softcap=draw.choice([None, 15.0]),
                **flags,
            )
        )
    return configs


@pytest.fixture
def odd_stacks(configure: Callable[..., Any]) -> list[Any]:
    """Forty valid configs of encoders and encoder-decoders, drawn from all options that they have."""
    draw = random.Random(1)
    configs = []
    for number in range(40):
        kind = ("encoder", "encoder_decoder")[number % 2]
        channels, groups, repeats = draw.choice([2, 4, 6]), draw.choice([1, 2, 3]), draw.choice([1, 2, 5])
        layers, experts = draw.randint(1, 4), draw.choice([None, None, 3])
        norm = draw.choice(["rms", "layer", "none", *(["batch"] if kind == "encoder" else [])])
        place = draw.choice(["pre", "post"]) if norm != "none" else "pre"
        names = ("gain", "tied", "mixing", "head_bias", "head_transform", "scaled_logits", "scaled_embedding")
        flags = {name: draw.random() < 0.5 for name in (*names, "scaled_scores")}
        flags["bias"] = draw.random() < 0.5 and experts is None
        flags["embedding_norm"] = norm != "none" and draw.random() < 0.5
        flags["qk_norm"] = norm in ("rms", "layer") and draw.random() < 0.5
        narrow = draw.choice([None, 9]) if kind == "encoder" else None
        alone = {
            "embedding_width": narrow,
            "parallel": draw.choice([None, "one_norm", "two_norms"]) if place == "pre" else None,
        }
        configs.append(
            configure(
                kind=kind,
                layers=layers,
                width=channels * groups * repeats,
                heads=groups * repeats,
                kv_heads=draw.choice([groups, None]),
                head_dim=draw.choice([None, None, 4]),
                hidden=draw.choice([None, 7, 33]),
                context=draw.randint(1, 30),
                vocabulary=draw.randint(1, 99),
                positions=draw.choice(["rotary", "learned", "sinusoidal", "alibi", "transformer_xl", "t5", "none"]),
                buckets=draw.choice([8, 13]),
                segments=draw.choice([None, 1, 3]),
                experts=experts,
                experts_per_token=draw.randint(1, 3) if experts else 2,
                experts_every=draw.randint(1, layers) if experts else 1,
                attention_bias=draw.choice([None, True, False]),
                output_bias=draw.choice([None, True, False]),
                norm=norm,
                norm_place=place,
                activation=draw.choice(["relu", "gelu", "swiglu", "geglu_tanh"]),
                value_embeddings=narrow is None and draw.random() < 0.5,
                init="t_fixup" if norm == "none" else draw.choice(["gpt2", "fan_in", "depth"]),
                **(alone if kind == "encoder" else {"encoder_layers": draw.choice([None, 1, 5])}),
                **flags,
            )
        )
    return configs


@pytest.fixture
def by_embedding() -> Callable[..., Tensor]:
    """How much the logits of one position depend on the embedding of each."""
    return _by_embedding


def _by_embedding(net: Any, tokens: Tensor, position: int, **rest: Any) -> Tensor:
    """Size of the gradient of one position's logits by the embedding of every position."""
    caught: list[Tensor] = []

    def catch(module: Any, inputs: Any, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[0]

    hook = net.trunk.embedding.register_forward_hook(catch)
    logits = net(tokens, **rest)
    hook.remove()
    weights = torch.randn(61, generator=torch.Generator().manual_seed(9), dtype=logits.dtype)
    (gradient,) = torch.autograd.grad((logits[:, position] * weights).sum(), caught)
    return gradient.abs().amax(dim=-1)
