"""Laws of the figures on a run's stability."""

from __future__ import annotations

import pytest
import torch

from groundup.callback.statistic import NoiseScale, SpikeScore

CPU = torch.device("cpu")


def test_the_noise_scale_of_a_quadratic_loss_is_the_one_that_can_be_calculated() -> None:
    """Sample x costs |w - x|^2 / 2, with x normal around zero: G = w and tr(Sigma) = dimensions * sigma^2."""
    dimensions, sigma, few, many, steps = 50, 3.0, 8, 64, 600
    wanted = dimensions * sigma**2 / (dimensions * 0.5**2)
    generator = torch.Generator().manual_seed(0)
    scale = NoiseScale(memory=steps, device=CPU)
    for _ in range(steps):
        w = torch.full((dimensions,), 0.5, requires_grad=True)
        x = sigma * torch.randn(many, dimensions, generator=generator)
        norms = []
        for first, last in ((0, few), (few, many)):  # the gradient adds up over micro-batches
            ((w - x[first:last]).square().sum() / 2 / many).backward()
            assert w.grad is not None
            norms.append(w.grad.square().sum())
        small = norms[0] * (many / few) ** 2
        scale.add(small, torch.tensor(1 / few), norms[1], many)
    assert scale.targets().item() == pytest.approx(wanted, rel=0.05)


def test_a_step_that_is_not_finite_does_not_spoil_the_noise_scale() -> None:
    scale = NoiseScale(memory=4, device=CPU)
    for small in (5.0, float("nan"), 5.0, float("inf")):
        scale.add(torch.tensor(small), torch.tensor(0.1), torch.tensor(2.0), 100)
    assert scale.targets().item() == pytest.approx((3 / 0.09) / (5 - 3 / 0.9), rel=1e-5)


def test_the_spike_score_is_the_share_of_values_far_from_those_before() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 500)
    values[0, 250:500:100] = 30.0
    values[1, 400] = float("nan")
    score = SpikeScore(2, window=100, sigmas=7.0, device=CPU)
    far: list[list[bool]] = []
    for step in range(500):
        before = torch.nan_to_num(values[:, max(0, step - 100) : step].double())
        score.add(values[:, step])
        if step >= 10:
            deviation = (values[:, step] - before.mean(dim=1)).abs() / before.std(dim=1)
            far.append((~(deviation < 7)).tolist())
        newest = torch.tensor(far[-min(100, step + 1) :] or [[False, False]]).sum(dim=0) / min(100, step + 1)
        assert torch.allclose(score.shares(), newest, atol=1e-6), step
    assert score.shares()[0] == pytest.approx(0.01)
