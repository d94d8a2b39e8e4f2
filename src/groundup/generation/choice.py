"""The next token from logits, a pure function of them and of one number per row; it knows no network."""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.core.keyed import derive


def uniform(seed: int, number: int, position: int) -> float:
    """A number in [0, 1) that belongs to a prompt's number and to how many tokens were drawn for it before."""
    return (derive(seed, "token", number, position) >> 11) * 2.0**-53


def choose(
    logits_BV: Tensor, uniforms: list[float], *, temperature: float, top_k: int | None, top_p: float | None
) -> list[int]:
    """Draw an id for each row by inverting the distribution function, ids in their order.

    Args:
        logits_BV: (B, V).
        uniforms: a number in [0, 1) for each row.
        temperature: divides the logits; 0 takes the likeliest id.
        top_k: keep the k likeliest ids (and what ties with the k-th).
        top_p: of these keep the likeliest that together have at least this share (Holtzman et al. 2019).
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()
    wide = torch.float32 if logits_BV.device.type == "mps" else torch.float64
    logits_BV = logits_BV.to(wide) / temperature
    if top_k is not None and top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    shares_BV = logits_BV.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = shares_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = sorted_BV.cumsum(dim=-1) - sorted_BV >= top_p
        shares_BV = shares_BV.masked_fill(torch.zeros_like(beyond_BV).scatter(1, order_BV, beyond_BV), 0.0)
    sums_BV = shares_BV.cumsum(dim=-1)
    aims_B1 = torch.tensor(uniforms, dtype=wide, device=logits_BV.device)[:, None] * sums_BV[:, -1:]
    chosen_B1 = torch.searchsorted(sums_BV, aims_B1, right=True)
    last_B1 = (sums_BV < sums_BV[:, -1:]).sum(dim=-1, keepdim=True)  # rounding may aim at the very end
    return torch.minimum(chosen_B1, last_B1)[:, 0].tolist()
