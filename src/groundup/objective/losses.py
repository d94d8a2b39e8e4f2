"""The mathematics of the objectives as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def z_loss(log_z_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """Sum over kept positions of log² Z, the squared log-partition (PaLM, Chowdhery et al. 2022, section 5).

    Args:
        log_z_BT: logarithm of the softmax's normaliser at each position, (B, T).
        kept_BT: whether a position has a target, (B, T) bool.
    """
    return log_z_BT.square().masked_fill(~kept_BT, 0.0).sum()


def classes(logits_BC: Tensor, labels_B: Tensor, kept_B: Tensor) -> Tensor:
    """Sum over kept rows of -log p(label), the cross-entropy of a softmax.

    Args:
        logits_BC: of each class.
        labels_B: int64, the true one.
        kept_B: bool, whether a row holds an example.
    """
    return functional.cross_entropy(logits_BC, labels_B, reduction="none").masked_fill(~kept_B, 0.0).sum()


def scores(answers_B: Tensor, scores_B: Tensor, kept_B: Tensor) -> Tensor:
    """Sum over kept rows of (answer - score)²."""
    return (answers_B - scores_B).square().masked_fill(~kept_B, 0.0).sum()


def spans(logits_BT2: Tensor, spans_B2: Tensor, there_BT: Tensor, kept_B: Tensor) -> Tensor:
    """Sum over kept rows of the mean of the cross-entropies of start and end (Devlin et al. 2019, section 4.2).

    Args:
        logits_BT2: of start and end at each position.
        spans_B2: int64, the true ones.
        there_BT: bool, whether a position is part of the example; the softmax is over these.
        kept_B: bool, whether a row holds an example.
    """
    whole_BT = there_BT | ~kept_B[:, None]
    masked_B2T = logits_BT2.masked_fill(~whole_BT[..., None], -torch.inf).transpose(1, 2)
    each_B2 = functional.cross_entropy(masked_B2T.flatten(0, 1), spans_B2.flatten(), reduction="none").view(-1, 2)
    return each_B2.mean(dim=1).masked_fill(~kept_B, 0.0).sum()
