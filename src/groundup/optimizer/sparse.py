"""The L1 penalty as a proximal step after any optimizer's own; it knows no optimizer in particular."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from groundup.model.parts import own


def with_l1(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let each step end by shrinking the parameters of groups whose `l1` is above 0 towards exactly 0.

    The penalty l1 * |w| is not differentiable at 0, where a subgradient would make weights jitter. Its proximal
    operator is the soft threshold

        w <- sign(w) max(|w| - lr l1, 0)

    (Parikh & Boyd 2014, "Proximal Algorithms", section 6.5.2), applied after the step as in proximal gradient
    descent (section 4.2). Like AdamW's weight decay it is decoupled: it does not pass through moments or
    preconditioners. Parameters without a gradient stay untouched.
    """
    if any(group["l1"] > 0 for group in optimizer.param_groups):
        optimizer.register_step_post_hook(_shrink)
    return optimizer


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    for group in optimizer.param_groups:
        threshold = group["lr"] * group["l1"]
        if threshold > 0:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    part = own(parameter)
                    part.copy_(functional.softshrink(part, threshold))
