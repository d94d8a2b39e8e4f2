"""Attention by hand is torch's attention, forward and backward, whatever is masked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundup.model import attention
from groundup.model.attention import attend

T, C = 300, 8


@pytest.fixture
def inputs() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, T, C, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad(output, inputs, weights.to(output.dtype))


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_explicit_attention_is_torchs_forward_and_backward(inputs: list[Tensor], masked: bool, bounded: bool) -> None:
    mask = None
    if masked:
        documents = torch.randint(0, 3, (2, T)).sort(dim=1).values
        mask = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
    ours = attend(*inputs, mask, 0.0, bounded)
    theirs = functional.scaled_dot_product_attention(*inputs, attn_mask=mask, is_causal=mask is None)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("limit", [T, T - 1])
@pytest.mark.parametrize("shape", [(1, 4, T, T), (2, 4, T, T), (1, 1, 1, T)])
@pytest.mark.parametrize("masked", [True, False])
def test_what_is_added_to_scores_gets_its_gradient(
    inputs: list[Tensor], masked: bool, shape: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "EXPLICIT", limit)
    added = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 1, T, T, dtype=torch.bool).tril()
    if masked:
        documents = torch.randint(0, 3, (2, T)).sort(dim=1).values
        mask = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
    ours = attend(*inputs, mask if masked else None, 0.0, False, added, 0.5)
    query, key, value = inputs
    scores = (0.5 * query @ key.transpose(2, 3) + added).masked_fill(~mask, -torch.inf)
    theirs = scores.softmax(dim=-1) @ value
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    learned = [*inputs, added]
    for mine, other in zip(gradients(ours, learned), gradients(theirs, learned), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_unbounded_scores_do_not_overflow(inputs: list[Tensor]) -> None:
    query, key, value = (x.detach().float() for x in inputs)
    output = attend(query * 1e4, key * 1e4, value, None, 0.0, False)
    assert output.isfinite().all()


def test_long_windows_take_torchs_kernel_and_give_the_same(
    inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = attend(*inputs, None, 0.0, False)
    monkeypatch.setattr(attention, "EXPLICIT", T - 1)
    torch.testing.assert_close(attend(*inputs, None, 0.0, False), by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [T, T - 1])
def test_grouped_heads_are_heads_that_share_keys_and_values(
    inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(attention, "EXPLICIT", limit)
    query, key, value = inputs
    shared = attend(query, key[:, :2], value[:, :2], None, 0.0, False)
    repeated = attend(query, *(x[:, [0, 0, 1, 1]] for x in (key, value)), None, 0.0, False)
    torch.testing.assert_close(shared, repeated, rtol=1e-12, atol=1e-12)


def test_dropped_weights_leave_the_mean_and_their_gradient_is_right(inputs: list[Tensor]) -> None:
    query, key, value = (x[:1, :1, :6].detach().requires_grad_() for x in inputs)

    def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(q, k, v, None, 0.4, False)

    assert torch.autograd.gradcheck(dropped, (query, key, value))
    mean = torch.stack([attend(query, key, value, None, 0.4, False) for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(mean, attend(query, key, value, None, 0.0, False), rtol=0, atol=0.1)


def test_half_precision_stays_near(inputs: list[Tensor]) -> None:
    half = [x.detach().bfloat16().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in half]
    ours, theirs = attend(*half, None, 0.0, False), attend(*exact, None, 0.0, False)
    torch.testing.assert_close(ours.double(), theirs, rtol=0.03, atol=0.03)
    for mine, other in zip(gradients(ours, half), gradients(theirs, exact), strict=True):
        assert (mine.double() - other).norm() < 0.03 * other.norm()
