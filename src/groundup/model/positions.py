"""How order becomes known: turned pairs, sinusoids, distances; learned positions are an embedding of the trunk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from groundup.model.linear import Linear

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config

LONGEST = 10_000.0
"""Longest wavelength / 2 pi of sinusoids (Vaswani et al. 2017, section 3.5)."""


def frequencies(config: Config, device: torch.device) -> Tensor:
    """By how much each pair of channels turns from one position to the next, (R / 2,).

    Pair i of the R channels that turn: base^(-2i/R) (Su et al. 2021, section 3.2.2). Stretched for a longer context
    either all alike (`linear`, Chen et al. 2023) or, by Llama 3's rule, the long wavelengths in full, the short ones
    not at all, and those between by a share (Grattafiori et al. 2024, section 3.2).
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    turned = config.rotated
    plain = config.rope_base ** -(torch.arange(0, turned, 2, device=device, dtype=wide) / turned)
    if config.rope_scaling is None:
        return plain
    if config.rope_scaling == "linear":
        return plain / config.rope_factor
    turns = (config.rope_original or 1) * plain / (2 * math.pi)  # within the context before
    kept = ((turns - config.rope_low) / (config.rope_high - config.rope_low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / config.rope_factor)


def angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotation angles.

    Args:
        positions: (T,) or (B, T) whole numbers.
        frequencies: (R / 2,).
        dtype: of the result, fp32 at least.

    Returns:
        Cosines (T or B, T, 1, 1, R / 2) and signed sines (T or B, T, 1, 2, R / 2), for `rotate`.
    """
    turned = positions[..., None, None, None] * frequencies
    sine = turned.sin()
    cosine: Tensor = turned.cos().to(dtype)
    return cosine, torch.cat((-sine, sine), dim=-2).to(dtype)


def rotate(x_BTHC: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of the first R channels by its position's angle; channel i is paired with i + R/2, as in NeoX."""
    turning = 2 * cosine.shape[-1]
    if turning < x_BTHC.shape[-1]:
        return torch.cat((rotate(x_BTHC[..., :turning], cosine, sine), x_BTHC[..., turning:]), dim=-1)
    halves = x_BTHC.view(*x_BTHC.shape[:-1], 2, turning // 2)
    turned: Tensor = halves * cosine + halves.flip(-2) * sine
    return turned.flatten(-2).to(x_BTHC.dtype)


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype, *, interleaved: bool) -> Tensor:
    """Sines and cosines of positions at `width` / 2 wavelengths, (..., width).

    Args:
        positions: whole numbers, of any shape.
        width: even.
        dtype: of the result.
        interleaved: a sine and its cosine stand side by side (Vaswani et al. 2017), else all sines come first, as
            in Transformer-XL's code.
    """
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=wide) / width
    turned = positions[..., None] * LONGEST**-exponents
    pair = (turned.sin(), turned.cos())
    found = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return found.to(dtype)


def slopes(heads: int, device: torch.device) -> Tensor:
    """By how much each head's scores fall with every position of distance, (H,) fp32 (Press et al. 2022, section 3).

    For 2^n heads a geometric sequence from 2^(-8/H); for other numbers, that of the power of two below, then every
    other one of the next power's, as in the authors' code.
    """
    power = 2 ** int(math.log2(heads))
    found = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    found += [2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(found, device=device)


class Relative(nn.Module):
    """What Transformer-XL adds to scores: how a query, and a head by itself, likes each distance (Dai et al. 2019).

    In section 3.3 of the paper, terms (b) and (d) are `scores`, and term (c) is `content_bias` added to the query.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width, self.heads, self.channels = config.width, config.heads, config.channels
        self.project = Linear(config.width, self.heads * self.channels, bias=False)
        self.content_bias = nn.Parameter(torch.empty(self.heads * self.channels))
        self.position_bias = nn.Parameter(torch.empty(self.heads * self.channels))

    def with_content(self, query_BTHC: Tensor) -> Tensor:
        """Queries for the products with keys."""
        return query_BTHC + self.content_bias.view(self.heads, self.channels).to(query_BTHC.dtype)

    def scores(self, query_BTHC: Tensor, distances: Tensor) -> Tensor:
        """Scores of distances, (B, H, T, S), before they are scaled.

        Args:
            query_BTHC: queries.
            distances: from each key forward to the query, (T, S) or (B, T, S); behind the query they do not matter.
        """
        farthest = distances.shape[-1]
        reach = torch.arange(farthest, device=query_BTHC.device)
        table = self.project(sinusoids(reach, self.width, query_BTHC.dtype, interleaved=False))
        biased = query_BTHC + self.position_bias.view(self.heads, self.channels).to(query_BTHC.dtype)
        by_distance = torch.einsum("bthc,lhc->bhtl", biased, table.view(farthest, self.heads, self.channels))
        index = distances.clamp(0, farthest - 1)
        index = index[None, None] if index.dim() == 2 else index[:, None]
        return by_distance.gather(3, index.expand(*by_distance.shape[:3], -1))
