"""Normalisation of vectors; where in a network it stands is the block's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config


class Norm(nn.Module):
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019) over the last dimension, with or without a gain.

    Statistics are taken in fp32 at least; the result has the input's dtype.

    Args:
        config: gives kind, epsilon, and whether there are gain and bias.
        width: size of the last dimension.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.centred = config.norm == "layer"
        self.eps = config.norm_eps
        self.shape = (width,)
        self.register_parameter("weight", nn.Parameter(torch.ones(width)) if config.gain else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(width)) if config.bias and self.centred else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised vectors of the same shape."""
        if self.centred and self.weight is None and self.bias is not None:
            # torch's kernel takes no bias of another dtype than x where there is no gain of that dtype
            return (functional.layer_norm(x, self.shape, eps=self.eps) + self.bias).to(x.dtype)
        if self.centred:
            return functional.layer_norm(x, self.shape, self.weight, self.bias, self.eps).to(x.dtype)
        normed = self._by_length(x) if _alone(x) else functional.rms_norm(x, self.shape, eps=self.eps)
        return normed if self.weight is None else (normed * self.weight).to(x.dtype)

    def _by_length(self, x: Tensor) -> Tensor:
        """The same through a vector's length: half the calls of torch's own, which in generation are what counts."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * (length.square_().div_(self.shape[0]).add_(self.eps)).rsqrt_()


def _alone(x: Tensor) -> bool:
    """Whether vectors are few, in full precision and without gradients, on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_grad_enabled()
        and x.numel() <= 1 << 16
    )
