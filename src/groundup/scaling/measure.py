"""What a device does when measured: the rate of its matrix products; it knows no model."""

from __future__ import annotations

import time

import torch

SMALL = 256
"""Sides of the matrices that show how large ones can be measured in time."""


def matrix_rate(device: torch.device, dtype: torch.dtype, *, size: int = 1536, seconds: float = 0.25) -> float:
    """The best rate in FLOP/s of a square matrix product, over as many repetitions as fit in the time.

    It draws no random number, so that measuring before training changes nothing. Where a product of that size would
    take longer than the time (bf16 on a processor that emulates it), a smaller one is measured.

    Args:
        device: where.
        dtype: of the matrices.
        size: of their sides.
        seconds: to spend, beside one product to warm up.
    """
    if size > SMALL:
        rate = matrix_rate(device, dtype, size=SMALL, seconds=0.0)
        while size > SMALL and 2.0 * size**3 > rate * seconds:
            size //= 2
    row = torch.linspace(-1.0, 1.0, size, device=device)
    left = torch.outer(row, row.flip(0)).to(dtype)
    right = left.T.contiguous()
    best, end = 0.0, time.perf_counter() + seconds
    with torch.no_grad():
        _finish(left @ right)
        while best == 0.0 or time.perf_counter() < end:
            begin = time.perf_counter()
            _finish(left @ right)
            best = max(best, 2.0 * size**3 / (time.perf_counter() - begin))
    return best


def _finish(result: torch.Tensor) -> None:
    if result.device.type != "cpu":
        result[0, 0].item()  # the only wait that every kind of device has
