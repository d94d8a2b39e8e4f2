"""From logits to the distribution that the next token is drawn from; pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def likelihoods(logits_BV: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Probabilities after temperature, top-k and top-p, in this order; (B, V), each row sums to 1.

    Args:
        logits_BV: of the next token.
        temperature: above 0.
        top_k: keep so many likeliest tokens (ties with the last of them are kept too).
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum (Holtzman et al. 2020).

    Raises:
        ValueError: an option out of range.
    """
    if temperature <= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature={temperature}, top_k={top_k}, top_p={top_p} cannot be")
    scaled_BV = logits_BV / temperature
    if top_k is not None and top_k < scaled_BV.shape[-1]:
        least_B1 = scaled_BV.topk(top_k, dim=-1).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < least_B1, float("-inf"))
    p_BV = scaled_BV.softmax(dim=-1)
    if top_p is not None:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        kept_BV = torch.zeros_like(p_BV, dtype=torch.bool).scatter(1, order_BV, before_BV < top_p)
        p_BV = p_BV.masked_fill(~kept_BV, 0.0)
        p_BV = p_BV / p_BV.sum(dim=-1, keepdim=True)
    return p_BV
