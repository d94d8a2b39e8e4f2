"""Counts are integers from the config alone, and equal what is built."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from groundup.model import count
from groundup.model.positions import Buckets


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_presets", Path(__file__).with_name("presets.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


presets = _load()


def preset(name: str) -> Any:
    return presets.preset(name, context=1024, vocabulary=32_000)


def built(config: Any) -> dict[str, int]:
    with torch.device("meta"):
        net = config.build()
    groups = {"embedding": 0, "matrix": 0, "vector": 0}
    embeddings = {id(part.weight) for part in net.modules() if isinstance(part, torch.nn.Embedding | Buckets)}
    for parameter in net.parameters():
        kind = "embedding" if id(parameter) in embeddings else "matrix" if parameter.ndim >= 2 else "vector"
        groups[kind] += parameter.numel()
    return {**groups, "total": sum(groups.values())}


class Products(TorchDispatchMode):
    """Counts the FLOPs of matrix products as torch does."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_has_as_many_parameters_as_counted(name: str) -> None:
    config = preset(name)
    assert config.parameters() == built(config)


def test_any_config_has_as_many_parameters_as_counted(odd_configs: list[Any], odd_stacks: list[Any]) -> None:
    for config in (*odd_configs, *odd_stacks):
        assert config.parameters() == built(config), config


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("gpt2-124m", 124_439_808, 124_439_808),
        ("10m", 7e6, 30e6),
        ("350m", 330e6, 370e6),
        ("1b", 1.28e9, 1.36e9),
    ],
)
def test_a_preset_has_the_size_of_its_name(name: str, least: float, most: float) -> None:
    assert least <= preset(name).parameters()["total"] <= most


def test_flops_are_those_of_the_products_that_a_step_computes(configure: Callable[..., Any]) -> None:
    config = configure(kv_heads=2, activation="swiglu")
    tokens = torch.zeros(3, 16, dtype=torch.int64)
    with Products() as products:
        config.build()(tokens, tokens).sum().backward()
    assert products.flops == 3 * 16 * config.flops_per_token()


@pytest.mark.parametrize("options", [{}, {"segments": 2, "head_transform": True, "positions": "learned"}])
def test_an_encoders_head_works_where_there_are_targets_alone(
    configure: Callable[..., Any], options: dict[str, Any]
) -> None:
    config = configure(kind="encoder", kv_heads=2, **options)
    tokens = torch.zeros(3, 16, dtype=torch.int64)
    targets = torch.where(torch.arange(16) % 4 == 1, tokens, -100)
    with Products() as products:
        config.build()(tokens, targets).sum().backward()
    assert products.flops == 3 * 16 * config.flops_per_token(1.0, 0.25)


@pytest.mark.parametrize(("read", "written"), [(16, 16), (12, 4)])
def test_an_encoder_decoders_products_are_those_of_what_is_read_and_written(
    configure: Callable[..., Any], read: int, written: int
) -> None:
    config = configure(kind="encoder_decoder", kv_heads=2, encoder_layers=3, head_dim=6)
    source, tokens = (torch.zeros(3, length, dtype=torch.int64) for length in (read, written))
    with Products() as products:
        config.build()(tokens, tokens, source_BS=source).sum().backward()
    assert products.flops == 3 * 16 * config.flops_per_token(read / 16, written / 16)


def test_a_tied_head_is_counted_as_work_though_not_as_a_matrix_of_its_own(configure: Callable[..., Any]) -> None:
    tied, untied = configure(tied=True), configure(tied=False)
    assert tied.flops_per_token() == untied.flops_per_token()
    assert count.parameters(untied)["total"] - count.parameters(tied)["total"] == 61 * 32


def test_attention_is_counted_at_the_context_asked_for(configure: Callable[..., Any]) -> None:
    config = configure()
    more = count.flops_per_token(config, 32) - count.flops_per_token(config, 16)
    assert more == 12 * config.layers * config.width * 16
