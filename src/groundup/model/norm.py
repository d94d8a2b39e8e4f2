"""Normalisation of vectors; where in a network it stands is the block's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


def norm(config: Config, width: int) -> nn.Module:
    """The norm that a config asks for, of vectors of so many channels."""
    if config.norm == "none":
        return nn.Identity()
    return BatchNorm(config, width) if config.norm == "batch" else Norm(config, width)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015): each channel over all positions of a micro-batch, later by running means.

    Statistics are taken in fp32 at least; the result has the input's dtype.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    mean: Tensor
    variance: Tensor

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.register_parameter("weight", nn.Parameter(torch.ones(width)) if config.gain else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(width)) if config.bias else None)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalised vectors of the same shape; in training the running means take up a tenth of the batch's."""
        flat_ND = x_BTD.flatten(0, -2).to(torch.promote_types(x_BTD.dtype, torch.float32))
        normed = functional.batch_norm(
            flat_ND, self.mean, self.variance, self.weight, self.bias, self.training, momentum=0.1, eps=self.eps
        )
        return normed.view_as(x_BTD).to(x_BTD.dtype)


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
