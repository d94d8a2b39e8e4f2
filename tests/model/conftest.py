"""Small networks for the laws of the model package."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the decoder

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
RECIPES = {"default": {}, "gpt2": GPT2, "llama": LLAMA, "grouped": {"kv_heads": 2}, "extras": EXTRAS}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of one of several architectures."""
    return RECIPES[request.param]


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads, and results do not depend on how many there are."""


@pytest.fixture
def configure() -> Callable[..., Any]:
    """A config of a small decoder with the given options."""
    return lambda **options: from_dict("model", {**SMALL, **options})


@pytest.fixture
def build(configure: Callable[..., Any]) -> Callable[..., Any]:
    """A small decoder in eval mode, all of whose weights are drawn at random, so that no zero hides a term."""

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
        init = ["modern", "gpt2"][number % 2]
        configs.append(
            configure(
                layers=draw.randint(1, 4),
                width=channels * groups * repeats,
                heads=groups * repeats,
                kv_heads=draw.choice([groups, None]),
                hidden=draw.choice([None, 7, 33]),
                context=draw.randint(1, 30),
                vocabulary=draw.randint(1, 99),
                positions=draw.choice(["rotary", "learned"]),
                norm=draw.choice(["rms", "layer"]),
                activation=draw.choice(["relu2", "gelu", "gelu_tanh", "swiglu"]),
                init=init,
                init_std=draw.choice([None, 0.1]) if init == "gpt2" else None,
                softcap=draw.choice([None, 15.0]),
                **{
                    name: draw.random() < 0.5
                    for name in (
                        "gain",
                        "embedding_norm",
                        "qk_norm",
                        "bias",
                        "tied",
                        "mixing",
                        "value_embeddings",
                        "shift",
                    )
                },
            )
        )
    return configs
