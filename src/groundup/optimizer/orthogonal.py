"""The orthogonal factor of many matrices at once by polynomial iterations; it knows no optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7

POLYNOMIALS: dict[str, list[tuple[float, float, float]]] = {
    # Jordan 2024 (kellerjordan.github.io/posts/muon): one quintic with the largest slope at 0 that keeps singular
    # values within about [0.7, 1.2]; it is applied five times.
    "jordan": [(3.4445, -4.7750, 2.0315)] * 5,
    # Amsel et al. 2025, "The Polar Express" (arXiv 2505.16932): the best quintic for each iteration in turn, five
    # of them, made safe for bf16 as in the paper (cushion 2, safety factor 2%; nanochat and modded-nanogpt use these).
    "polar": [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ],
}
"""Coefficients (a, b, c) of each iteration X <- a X + b (X X') X + c (X X')^2 X."""

MARGIN = {"jordan": 1.0, "polar": 1.02}
"""How far below 1 an iteration wants the Frobenius norm to begin."""


def orthogonalise(matrices_NRC: Tensor, polynomial: str) -> Tensor:
    """Push all singular values of each matrix towards 1 and keep its singular vectors (an approximate U V').

    Args:
        matrices_NRC: N matrices with R <= C, in the dtype to compute in; overwritten. A zero matrix stays zero.
        polynomial: a key of `POLYNOMIALS`.

    Returns:
        (N, R, C) of the same dtype, with singular values near 1: within about [0.7, 1.2] for those that were not
        tiny beside the largest.
    """
    norms = torch.linalg.vector_norm(matrices_NRC, dim=(1, 2), keepdim=True, dtype=_accurate(matrices_NRC.dtype))
    x_NRC = matrices_NRC.div_(norms.mul_(MARGIN[polynomial]).clamp_(min=EPSILON).to(matrices_NRC.dtype))
    for a, b, c in POLYNOMIALS[polynomial]:
        gram_NRR = torch.bmm(x_NRC, x_NRC.mT)
        inner_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, inner_NRR, x_NRC, beta=a)
    return x_NRC


def fast_dtype(parameter: Tensor, precision: str) -> torch.dtype:
    """The dtype to iterate in.

    Args:
        parameter: whose device and dtype are asked about.
        precision: "bf16", "fp32", or "auto": bf16 where the device multiplies it natively, which is faster and,
            the iteration being self-correcting, as good; double precision parameters stay so.
    """
    if parameter.dtype == torch.float64:
        return torch.float64
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    device = parameter.device.type
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
