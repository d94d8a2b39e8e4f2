"""The head: the stream to logits or, without ever holding all of them, to likelihoods; it sums over no tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.feedforward import ACTIVATIONS
from groundup.model.linear import Linear, linear
from groundup.model.norm import norm

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config

IGNORED = -100
"""The target of a position that has none."""

WHOLE = {"cpu": 2**26, "cuda": 2**30}
"""Logits that may stand in memory at once, by kind of device; more are made in pieces, and twice."""

PIECE = {"cpu": 2**26, "cuda": 2**28}
"""Logits of one piece, likewise."""


class Head(nn.Module):
    """A linear map to the vocabulary, optionally with soft-capped logits (Gemma 2, 2024), and the likelihoods it gives.

    With `head_transform` another map, the activation and a norm stand before it (Devlin et al. 2019, BERT).

    Args:
        config: gives sizes, soft-cap, and whether the embedding's matrix is used instead of an own one.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        vocabulary, _ = config.closed()
        self.softcap = config.softcap
        self.scale = config.width**-0.5 if config.scaled_logits else None
        if config.mup_base is not None:
            self.scale = (self.scale or 1.0) * config.mup_base / config.width
        own = None if config.tied else nn.Parameter(torch.empty(vocabulary, config.embedded))
        self.register_parameter("weight", own)
        self.register_parameter("bias", nn.Parameter(torch.empty(vocabulary)) if config.head_bias else None)
        self.activate = ACTIVATIONS[config.activation]
        wide = config.embedded
        self.transform = Linear(wide, wide, bias=config.bias) if config.head_transform else None
        self.transform_norm = norm(config, wide) if config.head_transform else None
        self.softmax = Softmax(config.softcap)
        self.gradient = Gradient(config.softcap)

    def compile_(self, **options: Any) -> None:
        """Compile likelihoods and their gradients in place."""
        self.softmax.compile(**options)
        self.gradient.compile(**options)

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None, tied: Tensor | None = None) -> Any:
        """Logits, or likelihoods of targets.

        Args:
            x_BTD: the normed stream, (..., D).
            targets_BT: ids, (...), -100 where there is none.
            tied: the embedding's matrix, (V, D), for a head without its own.

        Returns:
            Without targets, logits (..., V); else negative log-likelihoods and log-normalisers, (...) fp32 each.
        """
        weight_VD = self.weight if tied is None else tied
        assert weight_VD is not None
        if self.transform is not None and self.transform_norm is not None:
            x_BTD = self.transform_norm(self.activate(self.transform(x_BTD)))
        if self.scale is not None:
            x_BTD = x_BTD * self.scale
        if targets_BT is None:
            return cap(linear(x_BTD, weight_VD, self.bias), self.softcap)
        x_ND, targets_N = x_BTD.flatten(0, -2), targets_BT.flatten()
        if self.bias is not None:
            x_ND, weight_VD = _with_bias(x_ND, weight_VD, self.bias)
        nll_N, log_z_N = cast(Any, Likelihood).apply(x_ND, weight_VD, targets_N, self.softmax, self.gradient)
        return nll_N.view_as(targets_BT), log_z_N.view_as(targets_BT)


class Likelihood(torch.autograd.Function):
    """Likelihoods of rows, by as many pieces as memory asks for.

    One piece keeps the exponentials of its logits for the backward pass; of several, none keeps anything and the
    backward pass makes each anew, so that no more than one piece's logits are ever there. Gradients are right for
    any gradient by likelihoods and log-normalisers. The matrix's is summed over pieces in its own dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softmax: Softmax, gradient: Gradient
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods, zero where there is no target, and log-normalisers: (N,), fp32 at least."""
        kind = x_ND.device.type
        rows = _rows(len(x_ND), len(weight_VD), kind)
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else x_ND.dtype
        x, weight = x_ND.detach().to(dtype), weight_VD.detach().to(dtype)
        parts = [softmax(x[i : i + rows], weight, targets_N[i : i + rows]) for i in range(0, len(x), rows)]
        nll_N, log_z_N, sums_N = (torch.cat([part[i] for part in parts]) for i in range(3))
        kept = parts[0][3] if len(parts) == 1 else None
        ctx.save_for_backward(x, weight_VD, targets_N, log_z_N, sums_N, kept)
        ctx.rows, ctx.softmax, ctx.gradient, ctx.dtypes = rows, softmax, gradient, (x_ND.dtype, weight_VD.dtype)
        return nll_N, log_z_N

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Gradients by the stream and the matrix."""
        x, weight_VD, targets_N, log_z_N, sums_N, kept = ctx.saved_tensors
        weight, by_N2, log_z_N = weight_VD.detach().to(x.dtype), torch.stack(by, dim=1), log_z_N.detach()
        by_x, by_weight_VD = [], weight_VD.new_zeros(())
        for start in range(0, len(x), ctx.rows):
            piece = slice(start, start + ctx.rows)
            rows = x[piece], weight, targets_N[piece]
            made = kept if kept is not None else ctx.softmax(*rows)[3]
            by_rows, by_weight = ctx.gradient(*rows, made, log_z_N[piece], sums_N[piece], by_N2[piece])
            by_x.append(by_rows)
            by_weight_VD = by_weight.to(ctx.dtypes[1]) if not start else by_weight_VD.add_(by_weight)
            del made
        return torch.cat(by_x).to(ctx.dtypes[0]), by_weight_VD, None, None, None


class Softmax(nn.Module):
    """Likelihoods of a piece; it has no parameters and is a module so that it can be compiled in place."""

    def __init__(self, softcap: float | None) -> None:
        super().__init__()
        self.softcap = softcap

    def forward(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Likelihoods and what their gradient needs.

        Returns:
            nll_N: negative log-likelihoods, zero where there is no target.
            log_z_N: logarithms of the normalisers.
            sums_N: sums of the exponentials.
            kept_NV: exponentials of the logits less their maximum, or the logits themselves before a soft-cap.
        """
        logits_NV = x_ND @ weight_VD.T
        capped_NV = cap(logits_NV, self.softcap)
        top_N1 = capped_NV.amax(dim=-1, keepdim=True)
        # Summed as they are kept: a compiler then makes each exponential once, and softmax sums to one in the gradient.
        exponentials_NV = (capped_NV - top_N1).exp().to(logits_NV.dtype)
        kept_NV = exponentials_NV if self.softcap is None else logits_NV
        sums_N = exponentials_NV.to(capped_NV.dtype).sum(dim=-1)
        log_z_N = sums_N.log() + top_N1[:, 0]
        has_N = targets_N != IGNORED
        chosen_N = logits_NV.gather(1, targets_N.where(has_N, 0)[:, None])[:, 0]
        return (log_z_N - cap(chosen_N, self.softcap)).where(has_N, 0.0), log_z_N, sums_N, kept_NV


class Gradient(nn.Module):
    """Gradients of a piece's likelihoods; a module for the same reason."""

    def __init__(self, softcap: float | None) -> None:
        super().__init__()
        self.softcap = softcap

    def forward(
        self,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        kept_NV: Tensor,
        log_z_N: Tensor,
        sums_N: Tensor,
        by_N2: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Gradients by `x_ND` and `weight_VD`, given those by negative log-likelihood and log-normaliser in `by_N2`.

        The matrix's is in fp32 at least.
        """
        has_N = targets_N != IGNORED
        by_nll_N = by_N2[:, 0].where(has_N, 0.0)
        chosen_N1 = targets_N.where(has_N, 0)[:, None]
        scale_N1 = (by_nll_N + by_N2[:, 1])[:, None]
        softmax_NV = self._softmax(kept_NV, log_z_N[:, None], sums_N[:, None])
        at_N1 = self._softmax(kept_NV.gather(1, chosen_N1), log_z_N[:, None], sums_N[:, None])
        by_NV = (softmax_NV * scale_N1).to(kept_NV.dtype)
        by_NV = by_NV.scatter(1, chosen_N1, (at_N1 * scale_N1 - by_nll_N[:, None]).to(kept_NV.dtype))
        if self.softcap is not None:
            slope_NV = 1 - (cap(kept_NV, self.softcap) / self.softcap).square()
            by_NV = (by_NV * slope_NV).to(kept_NV.dtype)
        # A transposed left factor halves oneDNN's rate, and x is the smaller one to transpose.
        by_weight_DV = x_ND.T.contiguous() @ by_NV
        return by_NV @ weight_VD, by_weight_DV.T.to(log_z_N.dtype, memory_format=torch.contiguous_format)

    def _softmax(self, kept: Tensor, log_z: Tensor, sums: Tensor) -> Tensor:
        return kept / sums if self.softcap is None else (cap(kept, self.softcap) - log_z).exp()


def _with_bias(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors and matrix whose product has the bias in it: eight more channels, as seven zeros keep rows aligned."""
    ones_N8 = functional.pad(x_ND.new_ones(len(x_ND), 1), (0, 7))
    bias_V8 = functional.pad(bias_V.to(weight_VD.dtype)[:, None], (0, 7))
    return torch.cat((x_ND, ones_N8), dim=1), torch.cat((weight_VD, bias_V8), dim=1)


def _rows(rows: int, vocabulary: int, kind: str) -> int:
    """Rows of a piece, so that pieces are equal where a few more of them allow it: a compiler wants one shape."""
    if rows * vocabulary <= WHOLE.get(kind, WHOLE["cpu"]):
        return rows
    least = min(rows, -(-rows * vocabulary // PIECE.get(kind, PIECE["cpu"])))
    equal = (pieces for pieces in range(least, min(2 * least, rows) + 1) if rows % pieces == 0)
    return -(-rows // next(equal, least))


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """cap tanh(logits / cap), or the logits themselves: fp32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if softcap is None else softcap * torch.tanh(wide / softcap)
