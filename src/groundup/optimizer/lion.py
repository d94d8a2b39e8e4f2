"""Lion, which moves every number by the sign of an interpolated momentum; torch has no such optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groundup.model.parts import own


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2).

        c = beta1 m + (1 - beta1) g;  w <- w - lr (sign(c) + weight_decay w);  m <- beta2 m + (1 - beta2) g

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        betas: of the update and of the momentum.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            gradients = [own(parameter.grad) for parameter in moved]
            momenta = [own(self._momentum(parameter)) for parameter in moved]
            moved = [own(parameter) for parameter in moved]
            (beta1, beta2), lr = group["betas"], group["lr"]
            updates = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(moved, 1 - lr * group["weight_decay"])
            torch._foreach_add_(moved, updates, alpha=-lr)
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum
