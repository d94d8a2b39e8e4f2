"""Laws of recomputation: it changes what is kept for the backward pass and no number, drawn at random or not."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.model.config import Decoder, EncoderDecoder
from groundup.strategy.recompute import MATRIX_PRODUCTS, recompute_blocks

SIZE = {"layers": 2, "width": 32, "heads": 4, "context": 24, "vocabulary": 61, "dropout": 0.2, "init": "gaussian"}


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen["products"] += func in MATRIX_PRODUCTS
        return func(*args, **(kwargs or {}))


def passed(how, config, **asked):
    """Loss, gradients, and matrix products of the two passes."""
    torch.manual_seed(0)
    net = config.build().train()
    names = [name for name, _ in net.named_parameters()]
    recompute_blocks(net, how)
    assert [name for name, _ in net.named_parameters()] == names
    tokens = torch.randint(0, 61, (3, 24))
    torch.manual_seed(1)
    with Products() as forward:
        found = net(tokens, tokens, **asked)
    loss = found.sum() if isinstance(found, torch.Tensor) else sum(part.sum() for part in found)
    with Products() as backward:
        loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()], forward.seen["products"], backward.seen["products"]


@pytest.mark.parametrize("how", ["selective", "full"])
@pytest.mark.parametrize("net", ["dense", "experts", "encoder_decoder"])
def test_recomputing_changes_no_bit_of_loss_and_gradients_with_dropout(how, net):
    tokens = torch.randint(0, 61, (3, 24), generator=torch.Generator().manual_seed(2))
    config, asked = {
        "dense": (Decoder(**SIZE), {}),
        "experts": (Decoder(**SIZE, experts=3, activation="swiglu"), {"with_routing": True}),
        "encoder_decoder": (EncoderDecoder(**SIZE), {"source_BS": tokens}),
    }[net]
    loss, gradients, *_ = passed("none", config, **asked)
    again, same, *_ = passed(how, config, **asked)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_full_recomputes_every_product_of_the_blocks_and_selective_every_other_one():
    _, _, forward, plain = passed("none", Decoder(**SIZE))
    head = 1
    extra = {how: passed(how, Decoder(**SIZE))[3] - plain for how in ("selective", "full")}
    assert extra["full"] == forward - head
    assert extra["selective"] == (forward - head) // 2


def test_evaluation_keeps_nothing_and_recomputes_nothing():
    torch.manual_seed(0)
    net = Decoder(**SIZE).build().eval()
    tokens = torch.randint(0, 61, (3, 24))
    with torch.no_grad(), Products() as plain:
        wanted = net(tokens)
    recompute_blocks(net, "full")
    with torch.no_grad(), Products() as again:
        assert torch.equal(net(tokens), wanted)
    assert again.seen == plain.seen
