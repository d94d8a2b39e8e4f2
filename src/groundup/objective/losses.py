"""The mathematics of the objectives as pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def z_loss(log_z_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """Sum over kept positions of log² Z, the squared log-partition (PaLM, Chowdhery et al. 2022, section 5).

    Args:
        log_z_BT: logarithm of the softmax's normaliser at each position, (B, T).
        kept_BT: whether a position has a target, (B, T) bool.
    """
    return log_z_BT.square().masked_fill(~kept_BT, 0.0).sum()
