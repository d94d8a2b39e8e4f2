"""The laws every optimizer keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict


def learn(net, optimizer, first, last, factor=lambda _: 1.0):
    for step in range(first, last):
        torch.manual_seed(1000 + step)
        tokens = torch.randint(0, 11, (4, 5))
        nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor(step)
        optimizer.step()
        optimizer.zero_grad()
    return net


def snapshot(net, optimizer):
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value).clone()
    return tensors


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_quadratic_is_minimised(config):
    torch.manual_seed(0)
    target = {"blocks.0.up": torch.randn(6, 9), "embedding": torch.randn(5, 4), "bias": torch.randn(7)}
    parameters = {name: nn.Parameter(torch.zeros_like(value) + 0.5) for name, value in target.items()}
    optimizer = config.build(parameters.items())
    steps, losses = 400, []
    for step in range(steps):
        optimizer.zero_grad()
        loss = sum(((parameters[name] - value) ** 2).sum() / 2 for name, value in target.items())
        loss.backward()
        losses.append(loss.item())
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - step / steps)
        optimizer.step()
    assert losses[-1] < 0.03 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(config, dtype, made):
    whole = made(dtype=dtype)
    optimizer = config.build(whole.named_parameters())
    learn(whole, optimizer, 0, 6)
    undisturbed = snapshot(whole, optimizer)

    half = made(dtype=dtype)
    first = config.build(half.named_parameters())
    learn(half, first, 0, 3)
    weights, state = half.state_dict(), first.state_dict()
    other = made(seed=9, dtype=dtype)
    other.load_state_dict(weights)
    second = config.build(other.named_parameters())
    second.load_state_dict(state)
    assert_same(snapshot(half, first), snapshot(other, second))
    learn(other, second, 3, 6)
    assert_same(undisturbed, snapshot(other, second))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_state_passes_through_distributed_checkpoints_by_parameter_name(config, made):
    half = made()
    first = config.build(half.named_parameters())
    learn(half, first, 0, 3)
    saved = get_optimizer_state_dict(half, first)
    assert set(saved["state"]) <= {name for name, _ in half.named_parameters()}
    other = made(seed=9)
    other.load_state_dict(half.state_dict())
    second = config.build(other.named_parameters())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    set_optimizer_state_dict(other, second, saved)
    assert_same(before, other.state_dict())
    assert_same(snapshot(half, first), snapshot(other, second))


def test_a_state_holds_plain_tensors_under_plain_keys(config, made):
    net = made()
    optimizer = config.build(net.named_parameters())
    learn(net, optimizer, 0, 1)
    for state in optimizer.state.values():
        assert all(type(key) is str and type(value) is torch.Tensor for key, value in state.items())


def test_a_parameter_without_a_gradient_does_not_move_and_gets_no_state(config, made):
    net = made()
    idle = [net.blocks[0]["up"].weight, net.embedding.weight]
    before = [parameter.clone() for parameter in idle]
    optimizer = config.build(net.named_parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    for parameter in idle:
        parameter.grad = None
    optimizer.step()
    for parameter, was in zip(idle, before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter not in optimizer.state


def test_a_rate_of_zero_moves_nothing(config, made):
    net = made()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learn(net, config.build(net.named_parameters()), 0, 2, factor=lambda _: 0.0)
    assert_same(before, net.state_dict())


def test_a_closure_is_called_once_and_its_loss_returned(config, made):
    net = made()
    optimizer = config.build(net.named_parameters())
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = net(torch.tensor([[1, 2]])).sum()
        loss.backward()
        return loss.detach()

    assert optimizer.step(closure) is not None
    assert calls == [True]
