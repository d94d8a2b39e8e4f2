"""How weights begin: the scales that the papers state, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from groundup.model.initialise import RESIDUAL, initialise

BIG = {"width": 128, "layers": 3, "vocabulary": 301}


def make(configure: Callable[..., Any], **options: Any) -> Any:
    torch.manual_seed(0)
    return configure(**BIG, **options).build()


def test_gpt2_scales_what_writes_to_the_stream_by_the_depth(configure: Callable[..., Any]) -> None:
    net = make(configure, init="gpt2", positions="learned", bias=True, gain=True, norm="layer", init_std=0.05)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            expected = 0.05 / math.sqrt(6) if name.endswith(RESIDUAL) else 0.05
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name


def spread(net: Any) -> dict[str, float]:
    return {name: float(p.detach().std()) for name, p in net.named_parameters() if p.ndim > 1}


def test_small_gaussians_are_all_alike(configure: Callable[..., Any]) -> None:
    assert all(std == pytest.approx(0.02, rel=0.05) for std in spread(make(configure, init="gaussian")).values())


def test_depth_scaled_matrices_shrink_with_the_root_of_their_layer(configure: Callable[..., Any]) -> None:
    found = spread(make(configure, init="depth", norm_place="post"))
    for layer in range(3):
        for part, sizes in (("attention.query", 128 + 128), ("feedforward.up", 128 + 512)):
            expected = math.sqrt(2 / sizes / (layer + 1))
            assert found[f"trunk.blocks.{layer}.{part}.weight"] == pytest.approx(expected, rel=0.05)


def test_small_init_is_neoxs(configure: Callable[..., Any]) -> None:
    found = spread(make(configure, init="small"))
    for name, std in found.items():
        expected = 2 / (3 * math.sqrt(128)) if name.endswith(RESIDUAL) else math.sqrt(2 / (5 * 128))
        assert std == pytest.approx(expected, rel=0.05), name


def test_fan_in_is_palms(configure: Callable[..., Any]) -> None:
    found = spread(make(configure, init="fan_in", tied=True))
    assert found.pop("trunk.embedding.weight") == pytest.approx(1, rel=0.05)
    assert found["trunk.blocks.0.feedforward.down.weight"] == pytest.approx(512**-0.5, rel=0.05)
    assert found["trunk.blocks.0.attention.key.weight"] == pytest.approx(128**-0.5, rel=0.05)


def test_at_the_base_width_mup_changes_nothing(configure: Callable[..., Any]) -> None:
    plain, base = (make(configure, init="gpt2", **options) for options in ({}, {"mup_base": 128}))
    tokens = torch.randint(0, 301, (2, 16))
    assert torch.equal(plain(tokens), base(tokens))
    assert set(base.rate_scales().values()) == {1.0}
    assert plain.rate_scales() == {}


def test_modern_blocks_begin_as_the_identity_and_predictions_as_uniform(configure: Callable[..., Any]) -> None:
    net = make(configure, mixing=True, value_embeddings=True, shift=True)
    for name, parameter in net.named_parameters():
        if name.endswith(RESIDUAL):
            assert (parameter == 0).all(), name
    tokens = torch.randint(0, 301, (2, 16))
    torch.testing.assert_close(net(tokens, tokens), torch.full((2, 16), math.log(301)), rtol=0, atol=0.05)


def test_modern_matrices_keep_the_scale_of_what_they_multiply(configure: Callable[..., Any]) -> None:
    net = make(configure)
    for name, parameter in net.named_parameters():
        if "attention.query" in name or "feedforward.up" in name:
            assert float(parameter.detach().std()) == pytest.approx(128**-0.5, rel=0.05), name
    assert float(net.trunk.embedding.weight.detach().std()) == pytest.approx(1.0, rel=0.05)


def test_the_same_seed_gives_the_same_weights_also_where_memory_comes_late(
    configure: Callable[..., Any], recipe: dict[str, Any]
) -> None:
    config = configure(**recipe)
    torch.manual_seed(3)
    at_once = config.build().state_dict()
    with torch.device("meta"):
        net = config.build()
    net.to_empty(device="cpu")
    torch.manual_seed(3)
    initialise(net, config)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, at_once[name]), name
