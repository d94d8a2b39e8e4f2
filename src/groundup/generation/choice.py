"""The next token from logits, a pure function of them and of one number per row; it knows no network."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from groundup.core.keyed import derive


def uniform(seed: int, number: int, position: int) -> float:
    """A number in [0, 1) that belongs to a prompt's number and to how many tokens were drawn for it before."""
    return (derive(seed, "token", number, position) >> 11) * 2.0**-53


def widen(logits_BV: Tensor) -> Tensor:
    """The logits in the widest numbers of their device, in which sums over a vocabulary lose little."""
    return logits_BV.to(torch.float32 if logits_BV.device.type == "mps" else torch.float64)


def penalise(logits_BV: Tensor, rows: Sequence[Collection[int]], penalty: float) -> Tensor:
    """Logits after the penalty on repetition of Keskar et al. 2019 (CTRL, section 4.1), widened.

    Of ids that stand in the row already, they are divided by it where positive and else multiplied, once however
    often an id stands there. The paper divides negative ones too, by which they would rise; Hugging Face does as here.

    Args:
        logits_BV: (B, V), as the network gives them.
        rows: ids of each row so far, prompt included, at least one in all.
        penalty: above 0; above 1 repetition becomes less likely, below 1 more.
    """
    wide_BV = widen(logits_BV)
    place_N = torch.tensor([place for place, row in enumerate(rows) for _ in row], device=wide_BV.device)
    id_N = torch.tensor([token for row in rows for token in row], device=wide_BV.device)
    found_N = wide_BV[place_N, id_N]
    return wide_BV.index_put((place_N, id_N), torch.where(found_N > 0, found_N / penalty, found_N * penalty))


def choose(
    logits_BV: Tensor,
    uniforms: list[float],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None = None,
) -> list[int]:
    """Draw an id for each row by inverting the distribution function, ids in their order.

    Args:
        logits_BV: (B, V).
        uniforms: a number in [0, 1) for each row.
        temperature: divides the logits; 0 takes the likeliest id.
        top_k: keep the k likeliest ids (and what ties with the k-th).
        top_p: of these keep the likeliest that together have at least this share (Holtzman et al. 2019).
        min_p: of these keep those at least this times as likely as the likeliest (Nguyen et al. 2024).
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1).tolist()
    logits_BV = widen(logits_BV) / temperature
    if top_k is not None and top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    shares_BV = logits_BV.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = shares_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = sorted_BV.cumsum(dim=-1) - sorted_BV >= top_p
        shares_BV = shares_BV.masked_fill(torch.zeros_like(beyond_BV).scatter(1, order_BV, beyond_BV), 0.0)
    if min_p is not None:
        shares_BV = shares_BV.masked_fill(shares_BV < min_p * shares_BV.amax(dim=-1, keepdim=True), 0.0)
    sums_BV = shares_BV.cumsum(dim=-1)
    aims_B1 = torch.tensor(uniforms, dtype=sums_BV.dtype, device=sums_BV.device)[:, None] * sums_BV[:, -1:]
    chosen_B1 = torch.searchsorted(sums_BV, aims_B1, right=True)
    last_B1 = (sums_BV < sums_BV[:, -1:]).sum(dim=-1, keepdim=True)  # rounding may aim at the very end
    return torch.minimum(chosen_B1, last_B1)[:, 0].tolist()
