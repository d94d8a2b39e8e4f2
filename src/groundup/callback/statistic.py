"""Figures on a run's stability, kept on the device so that no step waits for them; it knows tensors and no trainer."""

from __future__ import annotations

import torch
from torch import Tensor


class SpikeScore:
    """The share of values at least so many standard deviations from the mean of those before (OLMo et al. 2024, 2.1).

    Of several series at once. A value that is not finite counts as one, and is not remembered.

    Args:
        series: how many.
        window: so many values are looked back on, both for the mean and for the share.
        sigmas: so many deviations.
        device: where values come from.
    """

    def __init__(self, series: int, window: int, sigmas: float, device: torch.device) -> None:
        self.window, self.sigmas, self.count = window, sigmas, 0
        self.values = torch.zeros(series, window, device=device)
        self.far = torch.zeros(series, window, device=device)

    def add(self, value: Tensor) -> None:
        """Take in the next value of each series, (series,)."""
        value = value.detach().float()
        seen, slot = min(self.count, self.window), self.count % self.window
        if seen >= max(2, self.window // 10):
            deviation, mean = torch.std_mean(self.values[:, :seen], dim=1)
            finite = value.isfinite()
            self.far[:, slot] = (((value - mean).abs() >= self.sigmas * deviation) | ~finite).float()
            value = torch.where(finite, value, mean)
        self.values[:, slot] = value.nan_to_num(0.0, 0.0, 0.0)
        self.count += 1

    def shares(self) -> Tensor:
        """Of each series, (series,)."""
        return self.far[:, : max(1, min(self.count, self.window))].mean(dim=1)


class NoiseScale:
    """The batch beyond which more samples hardly help: tr(Sigma) / |G|^2 (McCandlish et al. 2018, appendix A.1).

    The squared norm of a gradient that is the mean over b targets is on average |G|^2 + tr(Sigma) / b. Two sizes of b
    give both; each is averaged over steps before the quotient is taken, as single ones scatter widely.

    Args:
        memory: steps over which they are averaged, exponentially.
        device: where gradients are.
    """

    def __init__(self, memory: int, device: torch.device) -> None:
        self.memory = memory
        self.sums = torch.zeros(3, dtype=torch.float32, device=device)
        """Of the noise tr(Sigma), of the signal |G|^2, and of their weights."""

    def add(self, small: Tensor, inverse: Tensor, large: Tensor, targets: int) -> None:
        """Take in a step.

        Args:
            small: squared norm of the mean gradient over few targets, or the mean of several such.
            inverse: 1 / so many targets, or the mean of several such.
            large: squared norm of the mean gradient over the whole step.
            targets: of the step.
        """
        noise = (small - large) / (inverse - 1 / targets)
        signal = small - noise * inverse
        new = torch.stack((noise, signal, torch.ones_like(noise))).float()
        new = torch.where(new.isfinite().all(), new, torch.zeros_like(new))
        self.sums += (new - self.sums * new[2]) / self.memory

    def targets(self) -> Tensor:
        """The noise scale, counted in targets; not above zero or not finite where the signal drowns."""
        return self.sums[0] / self.sums[1]
