"""How order becomes known: turned pairs, sinusoids, distances; learned positions are an embedding of the trunk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from groundup.model.linear import Linear

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config

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
        self.ahead = config.mask != "causal"
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
            distances: from each key forward to the query, (T, S) or (B, T, S); of keys that are never seen, behind
                the query, they do not matter.
        """
        farthest = distances.shape[-1]
        first = 1 - farthest if self.ahead else 0
        reach = torch.arange(first, farthest, device=query_BTHC.device)
        table = self.project(sinusoids(reach, self.width, query_BTHC.dtype, interleaved=False))
        biased = query_BTHC + self.position_bias.view(self.heads, self.channels).to(query_BTHC.dtype)
        by_distance = torch.einsum("bthc,lhc->bhtl", biased, table.view(len(reach), self.heads, self.channels))
        index = distances.clamp(first, farthest - 1) - first
        index = index[None, None] if index.dim() == 2 else index[:, None]
        return by_distance.gather(3, index.expand(*by_distance.shape[:3], -1))


class Buckets(nn.Module):
    """What T5 adds to scores: a number of each head for the class of a distance (Raffel et al. 2020, section 2.1).

    Half of the classes are a distance each, the others, up to the farthest, grow with its logarithm. Where a position
    sees ahead, one half of the classes is for each direction.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ahead, self.count, self.farthest = config.mask != "causal", config.buckets, config.farthest
        self.weight = nn.Parameter(torch.empty(config.buckets, config.heads))

    def forward(self, distances: Tensor) -> Tensor:
        """(T, S) or (B, T, S) distances, from each key forward to the query, to (1 or B, H, T, S)."""
        bias_TSH = self.weight[self.classes(distances)]
        return bias_TSH.movedim(-1, -3)[None] if distances.dim() == 2 else bias_TSH.movedim(-1, -3)

    def classes(self, distances: Tensor) -> Tensor:
        """The class of each distance, of the same shape."""
        count, first = self.count, torch.zeros_like(distances)
        if self.ahead:
            count //= 2
            first = (distances < 0) * count
            distances = distances.abs()
        distances, near = distances.clamp(min=0), count // 2
        # In fp32 as in the authors' code: rounding decides the class where a logarithm is whole.
        share = (distances.clamp(min=1).float() / near).log() / math.log(self.farthest / near)
        far = (near + (share * (count - near)).long()).clamp(max=count - 1)
        return first + torch.where(distances < near, distances, far)
