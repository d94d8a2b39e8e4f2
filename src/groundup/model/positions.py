"""Rotary positions; learned ones are an embedding of the trunk, and no part here holds state."""

from __future__ import annotations

import torch
from torch import Tensor


def angles(positions: Tensor, channels: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotation angles (Su et al. 2021, section 3.2.2).

    Pair i of C channels turns by position * base^(-2i/C).

    Args:
        positions: (T,) or (B, T) whole numbers.
        channels: C, even.
        base: longest wavelength / 2 pi.
        dtype: of the result, fp32 at least.

    Returns:
        Cosines (T or B, T, 1, 1, C / 2) and signed sines (T or B, T, 1, 2, C / 2), for `rotate`.
    """
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, channels, 2, device=positions.device, dtype=wide) / channels
    turned = positions[..., None, None, None] * base**-exponents
    sine = turned.sin()
    cosine: Tensor = turned.cos().to(dtype)
    return cosine, torch.cat((-sine, sine), dim=-2).to(dtype)


def rotate(x_BTHC: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of channels by its position's angle; channel i is paired with i + C/2, as in NeoX and Llama."""
    halves = x_BTHC.view(*x_BTHC.shape[:-1], 2, -1)
    turned = halves * cosine + halves.flip(-2) * sine
    return turned.view_as(x_BTHC).to(x_BTHC.dtype)
