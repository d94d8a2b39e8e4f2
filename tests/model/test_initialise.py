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


UNNORMED = {"norm": "none", "qk_norm": False, "embedding_norm": False, "init": "t_fixup"}


def xavier(parameter: torch.Tensor) -> float:
    """Standard deviation of Glorot & Bengio 2010, equation 16."""
    return math.sqrt(2 / sum(parameter.shape))


def test_t_fixup_scales_an_encoder_decoder_as_its_paper_says(configure: Callable[..., Any]) -> None:
    """Huang et al. 2020, section 3.2: of N layers, decoder and embeddings by (9 N)^(-1/4), encoder by 0.67 N^(-1/4)."""
    net = make(configure, kind="encoder_decoder", encoder_layers=5, positions="learned", **UNNORMED)
    for name, parameter in net.named_parameters():
        found = float(parameter.detach().std())
        if name.endswith((".embedding.weight", ".positions.weight")):
            expected = 128**-0.5 * (9 * 3) ** -0.25
        elif name == "head.weight" or name.endswith(("query.weight", "key.weight")):
            expected = xavier(parameter)
        else:
            assert name.endswith(("value.weight", "output.weight", "up.weight", "down.weight"))
            scale = 0.67 * 5**-0.25 if name.startswith("encoder.") else (9 * 3) ** -0.25
            expected = scale * xavier(parameter)
        assert found == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize(("kind", "scale"), [("decoder", (9 * 3) ** -0.25), ("encoder", 0.67 * 3**-0.25)])
def test_t_fixup_scales_one_stack_as_it_does_in_two(configure: Callable[..., Any], kind: str, scale: float) -> None:
    net = make(configure, kind=kind, **UNNORMED)
    for part in ("attention.value", "attention.output", "feedforward.up", "feedforward.down"):
        weight = net.get_parameter(f"trunk.blocks.1.{part}.weight").detach()
        assert float(weight.std()) == pytest.approx(scale * xavier(weight), rel=0.05), part
    for part in ("attention.query", "attention.key"):
        weight = net.get_parameter(f"trunk.blocks.1.{part}.weight").detach()
        assert float(weight.std()) == pytest.approx(xavier(weight), rel=0.05), part


def test_fan_in_is_t5s_where_scores_are_not_scaled(configure: Callable[..., Any]) -> None:
    """Raffel et al. 2020 in its code: queries of variance 1 / (D C), the classes of distances of 1 / D."""
    options = {"positions": "t5", "scaled_scores": False, "qk_norm": False, "init": "fan_in", "tied": True}
    found = spread(make(configure, kind="encoder_decoder", heads=8, **options))
    for stack in ("encoder", "trunk"):
        assert found[f"{stack}.blocks.1.attention.query.weight"] == pytest.approx((128 * 16) ** -0.5, rel=0.05)
        assert found[f"{stack}.blocks.1.attention.value.weight"] == pytest.approx(128**-0.5, rel=0.05)
        assert found[f"{stack}.buckets.weight"] == pytest.approx(128**-0.5, rel=0.15)
    assert found["trunk.blocks.1.cross_attention.query.weight"] == pytest.approx((128 * 16) ** -0.5, rel=0.05)
    assert found["trunk.embedding.weight"] == pytest.approx(1, rel=0.05)


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
