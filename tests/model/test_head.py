"""Likelihoods from the head are cross-entropy of the logits, in one piece or many, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.model import head
from groundup.model.head import Head

N, D, V = 37, 12, 103


@pytest.fixture(params=["one piece", "pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    many = request.param == "pieces"
    if many:
        monkeypatch.setattr(head, "WHOLE", {"cpu": 4 * V})
        monkeypatch.setattr(head, "PIECE", {"cpu": 5 * V})
    return many


def make(configure: Callable[..., Any], **options: Any) -> tuple[Head, Tensor, Tensor]:
    torch.manual_seed(0)
    made = Head(configure(width=D, vocabulary=V, heads=2, **options)).double()
    torch.nn.init.normal_(made.weight, std=2.0)
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, V, (N,))
    targets[::5] = -100
    return made, x, targets


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_likelihoods_and_gradients_are_those_of_cross_entropy_for_any_weights(
    configure: Callable[..., Any], pieces: bool, softcap: float | None
) -> None:
    made, x, targets = make(configure, softcap=softcap)
    by_nll, by_log_z = torch.randn(2, N, dtype=torch.float64).unbind()
    nll, log_z = made(x, targets)
    logits = made(x)
    expected = functional.cross_entropy(logits, targets, reduction="none", ignore_index=-100)
    torch.testing.assert_close(nll, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_z, logits.logsumexp(dim=-1), rtol=1e-12, atol=1e-12)
    variables = [x, made.weight]
    ours = torch.autograd.grad((nll * by_nll + log_z * by_log_z).sum(), variables)
    theirs = torch.autograd.grad((expected * by_nll + logits.logsumexp(dim=-1) * by_log_z).sum(), variables)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_a_position_without_target_costs_nothing_and_pulls_nothing(configure: Callable[..., Any], pieces: bool) -> None:
    made, x, targets = make(configure)
    nll, _ = made(x, targets)
    (gradient,) = torch.autograd.grad(nll.sum(), x)
    assert (nll[targets == -100] == 0).all() and (nll[targets != -100] > 0).all()
    assert (gradient[targets == -100] == 0).all()


def test_pieces_are_the_whole_bit_for_bit_in_the_forward_pass(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x, targets = make(configure)
    whole = made(x, targets)
    monkeypatch.setattr(head, "WHOLE", {"cpu": 4 * V})
    monkeypatch.setattr(head, "PIECE", {"cpu": 8 * V})
    for one, other in zip(whole, made(x, targets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_no_more_than_a_piece_of_the_logits_is_ever_in_memory(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "WHOLE", {"cpu": 4 * V})
    monkeypatch.setattr(head, "PIECE", {"cpu": 5 * V})
    made, x, targets = make(configure)
    with Largest() as largest:
        nll, _ = made(x, targets)
        nll.mean().backward()
    assert largest.numbers == max(5 * V, V * D)
    assert largest.numbers < N * V / 2


def test_autocast_gives_full_precision_likelihoods_and_gradients_in_the_parameters_dtype(
    configure: Callable[..., Any], pieces: bool
) -> None:
    made, x, targets = make(configure)
    made, x = made.float(), x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        nll, log_z = made(x, targets)
    nll.sum().backward()
    exact = functional.cross_entropy(made(x), targets, reduction="none", ignore_index=-100)
    assert nll.dtype == log_z.dtype == x.grad.dtype == made.weight.grad.dtype == torch.float32
    assert (nll - exact).norm() < 0.02 * exact.norm()
    (expected,) = torch.autograd.grad(exact.sum(), made.weight)
    assert (made.weight.grad - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("rows", "expected"), [(64, 64), (65, 13), (96, 16), (101, 17), (1024, 16)])
def test_pieces_are_equal_where_they_can_be_and_never_too_large(
    monkeypatch: pytest.MonkeyPatch, rows: int, expected: int
) -> None:
    monkeypatch.setattr(head, "WHOLE", {"cpu": 64 * V})
    monkeypatch.setattr(head, "PIECE", {"cpu": 18 * V})
    assert head._rows(rows, V, "cpu") == expected


def test_huge_logits_neither_overflow_nor_vanish(configure: Callable[..., Any]) -> None:
    made, x, targets = make(configure)
    nll, _ = made.float()(x.detach().float().requires_grad_() * 1e4, targets)
    nll.sum().backward()
    assert nll.isfinite().all() and made.weight.grad.isfinite().all()


def test_a_soft_cap_bounds_logits(configure: Callable[..., Any]) -> None:
    made, x, _ = make(configure, softcap=3.0)
    assert made(x * 100).abs().max() <= 3.0


def test_the_decoder_returns_log_normalisers_when_asked(build: Callable[..., Any]) -> None:
    net = build()
    tokens = torch.randint(0, 61, (2, 5))
    targets = tokens.clone()
    targets[0, 0] = -100
    nll, log_z = net(tokens, targets, with_log_z=True)
    logits = net(tokens)
    torch.testing.assert_close(log_z, logits.logsumexp(dim=-1))
    torch.testing.assert_close(nll[1, 2], (log_z - logits.gather(2, tokens[..., None])[..., 0])[1, 2])
    assert torch.equal(net(tokens, targets), nll)
