"""Experts: each position is read by those its router chose, and uneven use has its price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from groundup.core.errors import ConfigError
from groundup.model.experts import Experts, router_losses

Build = Callable[..., Any]
SPARSE: dict[str, Any] = {"activation": "swiglu", "experts": 5, "experts_per_token": 2}


@torch.no_grad()
@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_a_position_is_read_by_its_experts_in_their_shares(build: Build, activation: str) -> None:
    """Jiang et al. 2024, section 2.1, a position at a time."""
    experts: Experts = build(**{**SPARSE, "activation": activation}).trunk.blocks["0"].feedforward
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    found = experts(x)
    for row in range(2):
        for position in range(7):
            vector = x[row, position]
            logits = experts.router.weight @ vector
            chosen = sorted(range(5), key=lambda e: -float(logits[e]))[:2]
            shares = torch.tensor([float(logits[e]) for e in chosen]).double().exp()
            expected = torch.zeros(32, dtype=torch.float64)
            for share, expert in zip(shares / shares.sum(), chosen, strict=True):
                hidden = experts.up.weight[expert] @ vector
                if activation == "swiglu":
                    hidden = functional.silu(experts.gate.weight[expert] @ vector) * hidden
                else:
                    hidden = hidden.relu() ** 2
                expected += share * (experts.down.weight[expert] @ hidden)
            torch.testing.assert_close(found[row, position], expected, rtol=1e-6, atol=1e-6)


def test_dense_and_sparse_layers_alternate(build: Build) -> None:
    net = build(**SPARSE, layers=4, experts_every=2)
    assert [isinstance(block.feedforward, Experts) for block in net.trunk.blocks.values()] == [False, True, False, True]


def test_an_even_router_costs_one_and_a_router_of_one_expert_as_many_as_there_are() -> None:
    even = torch.zeros(3, 8, 4)
    round_robin = torch.arange(8).remainder(4).expand(3, 8)[..., None]
    torch.testing.assert_close(router_losses(even, round_robin)[:, 0], torch.ones(3))
    one = torch.full((3, 8, 4), -1e4)
    one[..., 2] = 0.0
    torch.testing.assert_close(router_losses(one, torch.full((3, 8, 1), 2))[:, 0], torch.full((3,), 4.0))
    torch.testing.assert_close(
        router_losses(even, round_robin)[:, 1], torch.full((3,), torch.tensor(4.0).log().item() ** 2)
    )


def test_what_a_row_costs_does_not_depend_on_the_rows_beside_it(build: Build) -> None:
    net, tokens = build(**SPARSE), torch.randint(0, 61, (3, 16))
    nll, together = net(tokens, tokens, with_routing=True)
    assert nll.shape == (3, 16)
    apart = torch.cat([net(tokens[i : i + 1], tokens[i : i + 1], with_routing=True)[1] for i in range(3)])
    torch.testing.assert_close(together, apart)


def test_every_expert_gets_a_gradient_where_one_is_read(build: Build) -> None:
    net, tokens = build(torch.float32, **SPARSE), torch.randint(0, 61, (4, 16))
    nll, routing = net(tokens, tokens, with_routing=True)
    (nll.mean() + routing.sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"experts": 4, "experts_per_token": 5}, "experts=4: does not go with experts_per_token=5"),
        ({"experts": 4, "experts_every": 3}, "experts_every=3"),
        ({"experts": 4, "bias": True}, "bias=true: is not defined for experts"),
        ({"experts": 1}, "experts=1"),
    ],
)
def test_experts_that_cannot_be_are_refused(configure: Build, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configure(**options)
