"""Under muP activations move as much at any width; under the standard parametrisation they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.optimizer.config import AdamW
from groundup.optimizer.group import rescale

WIDTHS = (64, 128, 256, 512, 1024)
STEPS, RATE, BASE = 4, 0.01, 64


def moved(configure: Callable[..., Any], width: int, mup: bool, **options: Any) -> dict[str, float]:
    """By how much each activation moves in a few steps of Adam, as root mean squares: the coordinate check.

    Yang et al. 2022, appendix D.1.
    """
    parametrisation = {"mup_base": BASE, "mup_head_dim": 16} if mup else {}
    torch.manual_seed(0)
    net = configure(width=width, heads=4, vocabulary=64, init="gpt2", **parametrisation, **options).build().train()
    optimizer = AdamW(rate=RATE, weight_decay=0.0).build(net.named_parameters())
    rescale(optimizer, net.named_parameters(), net.rate_scales())
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 64, (8, 17), generator=draw)
    caught: dict[str, Tensor] = {}
    shown = {"source_BS": tokens[:, 3:].flip(1)} if net.config.kind == "encoder_decoder" else {}
    watched = {name: part for name, part in net.named_modules() if name.endswith(("attention", "feedforward"))}
    for name, part in watched.items():
        part.register_forward_hook(
            lambda module, inputs, output, key=name: caught.__setitem__(key, output.detach().clone())
        )
    begun: dict[str, Tensor] = {}
    for step in range(STEPS + 1):
        with torch.no_grad():
            caught["logits"] = net(tokens[:, :-1], **shown)
        if step == 0:
            begun = dict(caught)
        if step < STEPS:
            net(tokens[:, :-1], tokens[:, 1:], **shown).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return {key: float((value - begun[key]).square().mean().sqrt()) for key, value in caught.items()}


def growths(configure: Callable[..., Any], mup: bool, **options: Any) -> dict[str, float]:
    """The exponent with which each activation's movement grows with the width: a least-squares slope."""
    found = [moved(configure, width, mup, **options) for width in WIDTHS]
    x = torch.tensor([math.log(width) for width in WIDTHS])
    x = x - x.mean()
    slopes = {}
    for key in found[0]:
        y = torch.tensor([math.log(row[key]) for row in found])
        slopes[key] = float((x * (y - y.mean())).sum() / x.square().sum())
    return slopes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "swiglu", "gain": True, "qk_norm": False},
        {"kind": "encoder", "norm": "layer", "norm_place": "post", "activation": "gelu", "head_transform": True},
        {"kind": "encoder_decoder", "layers": 1, "positions": "t5", "qk_norm": False, "activation": "relu"},
    ],
    ids=["relu2", "llama", "bert", "t5"],
)
def test_activations_move_alike_at_every_width_under_mup_alone(
    configure: Callable[..., Any], options: dict[str, Any]
) -> None:
    flat, steep = growths(configure, True, **options), growths(configure, False, **options)
    assert all(abs(slope) < 0.25 for slope in flat.values()), flat
    assert steep["logits"] > 0.5, steep
    assert max(steep.values()) > 4 * max(abs(slope) for slope in flat.values())
