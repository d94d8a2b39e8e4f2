"""A network in parts, one handing its stream on to the next, is the network."""

from __future__ import annotations

import pytest
import torch

from groundup.model.config import Decoder, Encoder
from groundup.model.part import Carried, Stretch, cut

SHAPE = {"layers": 4, "width": 16, "heads": 2, "context": 8, "vocabulary": 31, "init": "gpt2"}
STRETCHES = [
    Stretch(0, range(1), True, False),
    Stretch(1, range(1, 3), False, False),
    Stretch(2, range(3, 4), False, True),
]
KINDS = {
    "plain": Decoder(**SHAPE),
    "mixing": Decoder(**SHAPE, mixing=True, value_embeddings=True, shift=True),
    "tied": Decoder(**SHAPE, tied=True, positions="learned", norm="layer", gain=True, bias=True),
    "t5": Decoder(**SHAPE, positions="t5"),
    "experts": Decoder(**SHAPE, experts=3, experts_every=2),
    "encoder": Encoder(**SHAPE, positions="learned", segments=2, head_transform=True),
}


class Box:
    """What one part gives the next takes, if it has the shape that was announced."""

    def __init__(self) -> None:
        self.carried: Carried = ()

    def take(self, stretch: Stretch, shapes: list[tuple[int, ...]]) -> Carried:
        assert [tuple(tensor.shape) for tensor in self.carried] == shapes
        return self.carried

    def give(self, stretch: Stretch, carried: Carried) -> None:
        self.carried = carried


def build(config):
    torch.manual_seed(0)
    return config.build().double()


def parts(config):
    """The network cut three ways, by one box."""
    box, found = Box(), []
    for stretch in STRETCHES:
        net = build(config)
        cut(net, [stretch])
        net.trunk.link = box
        found.append(net)
    return found


def batch():
    draw = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(0, 31, (2, 3, 8), generator=draw).unbind()
    targets[0, 3:] = -100
    return tokens, targets


@pytest.mark.parametrize("kind", KINDS)
def test_parts_in_turn_answer_bitwise_what_the_whole_does(kind):
    config = KINDS[kind]
    asked = {"with_log_z": True, **({"with_routing": True} if kind == "experts" else {})}
    whole = build(config)
    wanted = whole(*batch(), **asked)
    *before, last = [net(*batch(), **asked) for net in parts(config)]
    assert all(torch.equal(mine, its) for mine, its in zip(last, wanted, strict=True))
    for answer in before:
        assert [part.shape for part in answer] == [part.shape for part in wanted]
        assert [part.dtype for part in answer] == [part.dtype for part in wanted]
        assert not any(part.any() for part in answer)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_parts_add_up_to_those_of_the_whole(kind):
    config = KINDS[kind]
    whole, cuts = build(config), parts(config)
    whole(*batch()).sum().backward()
    [net(*batch()) for net in cuts][-1].sum().backward()
    for name, parameter in whole.named_parameters():
        held = [dict(net.named_parameters())[name] for net in cuts if name in dict(net.named_parameters())]
        assert held, name
        if parameter.grad is not None:
            torch.testing.assert_close(sum(one.grad for one in held), parameter.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_holds_its_own_parameters_and_knows_the_others(kind):
    whole = {name: tensor.shape for name, tensor in build(KINDS[kind]).state_dict().items()}
    for net in parts(KINDS[kind]):
        held = {name: tensor.shape for name, tensor in net.state_dict().items()}
        assert 0 < len(held) < len(whole)
        assert {**held, **net.trunk.gone} == whole
        assert not set(held) & set(net.trunk.gone)


def test_one_net_may_hold_several_stretches_and_run_those_whose_turn_it_is():
    config, box = KINDS["mixing"], Box()
    whole, ends, middle = build(config), build(config), build(config)
    cut(ends, [STRETCHES[0], STRETCHES[2]])
    cut(middle, [STRETCHES[1]])
    ends.trunk.link = middle.trunk.link = box
    ends.trunk.turn = (STRETCHES[0],)
    assert not ends(*batch()).any()
    middle(*batch())
    ends.trunk.turn = (STRETCHES[2],)
    assert torch.equal(ends(*batch()), whole(*batch()))


def test_each_stretch_drops_by_noise_of_its_own_that_the_seed_decides():
    config = Decoder(**SHAPE, dropout=0.5)

    def draws(seed: int) -> list[torch.Tensor]:
        found = []
        for net in parts(config):
            torch.manual_seed(seed)
            net.train()(*batch())
            found.append(torch.rand(4))
        return found

    first, again, other = draws(1), draws(1), draws(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[1], first[2])
