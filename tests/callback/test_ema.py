"""The average of the weights: its numbers, its place beside training, and its way through a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from groundup.callback import config
from groundup.callback.ema import Ema, averaged
from groundup.core.errors import CheckpointError


def attached(net: nn.Module, **options: object) -> Ema:
    ema = Ema(config.Ema(**options))
    ema.attach(nn.ModuleDict({"model": net}))
    return ema


def walk(net: nn.Module, ema: Ema, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Move the weights at random, following with the average; the weights at each step."""
    noise, path = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        with torch.no_grad():
            net.weight += torch.randn(net.weight.shape, generator=noise)
        path.append(net.weight.detach().clone())
        ema.update()
    return path


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_that_of_its_definition(warmup: bool) -> None:
    net = nn.Linear(3, 2)
    ema = attached(net, decay=0.9, warmup=warmup)
    expected = net.weight.detach().double().clone()
    for n, weight in enumerate(walk(net, ema, 20)):
        decay = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * weight.double()
    torch.testing.assert_close(ema.state()["model.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_resuming_gives_the_same_bits_as_going_on() -> None:
    straight, net = nn.Linear(3, 2), nn.Linear(3, 2)
    net.load_state_dict(straight.state_dict())
    undisturbed, first = attached(straight), attached(net)
    walk(straight, undisturbed, 7)
    walk(straight, undisturbed, 5, seed=1)
    walk(net, first, 7)
    saved = {name: value.clone() for name, value in first.state().items()}
    for early in (False, True):
        resumed, again = nn.Linear(3, 2), Ema(config.Ema())
        resumed.load_state_dict(net.state_dict())
        if early:
            again.load_state(saved)
        again.attach(nn.ModuleDict({"model": resumed}))
        if not early:
            again.load_state(saved)
        walk(resumed, again, 5, seed=1)
        assert again.updates == 12
        for name, value in undisturbed.state().items():
            assert torch.equal(again.state()[name], value), name


def test_a_run_that_did_not_average_so_far_begins_at_the_weights_it_has_now() -> None:
    net = nn.Linear(3, 2)
    ema = attached(net)
    walk(net, ema, 3)
    ema.load_state({})
    assert torch.equal(ema.state()["model.weight"], net.weight) and ema.updates == 0


def test_averages_of_another_model_are_refused() -> None:
    ema = attached(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="another model"):
        ema.load_state(attached(nn.Linear(3, 4)).state())


def test_frozen_weights_have_no_average_and_half_precision_ones_have_it_in_fp32() -> None:
    net = nn.Linear(3, 2).to(torch.bfloat16)
    net.bias.requires_grad_(False)
    state = attached(net).state()
    assert set(state) == {"model.weight", "updates"}
    assert state["model.weight"].dtype == torch.float32


def test_weights_come_back_bit_by_bit_after_the_average_stood_in_their_place() -> None:
    net = nn.Linear(3, 2)
    ema = attached(net)
    path = walk(net, ema, 4)
    ema.swap_in()
    ema.swap_in()
    assert torch.equal(net.weight, ema.state()["model.weight"]) and not torch.equal(net.weight, path[-1])
    ema.swap_out()
    assert torch.equal(net.weight, path[-1])


def test_validation_sees_the_averages_and_training_does_not_notice(run) -> None:
    ema = Ema(config.Ema(decay=0.5))
    plain, _ = run(folder="plain", validate=3)
    watched, trainer = run(ema, folder="watched", validate=3)
    assert torch.equal(plain.weight, watched.weight)
    assert torch.equal(watched.seen[-1], ema.state()["model.0.weight"])
    assert not torch.equal(watched.seen[-1], watched.weight)
    with averaged(trainer) as yes:
        assert yes and torch.equal(watched.weight, watched.seen[-1])
        with averaged(trainer) as still:
            assert still and torch.equal(watched.weight, watched.seen[-1])
        assert torch.equal(watched.weight, watched.seen[-1])
    assert torch.equal(plain.weight, watched.weight)


def test_without_averages_the_weights_stand_for_themselves(run) -> None:
    module, trainer = run(steps=2)
    with averaged(trainer) as yes:
        assert not yes
        assert module.nets.training


def test_an_error_during_validation_leaves_the_weights_in_place(run) -> None:
    ema = Ema(config.Ema(decay=0.5))
    module, trainer = run(ema, steps=2)
    before = module.weight.clone()
    ema.on_validation_start(trainer, module)
    assert not torch.equal(module.weight, before)
    ema.on_exception(trainer, module, RuntimeError("out of memory"))
    assert torch.equal(module.weight, before)
