"""Muon for the matrices of hidden layers and AdamW for everything else, as one optimizer with groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from groundup.model.parts import cut_along, own
from groundup.optimizer.exchange import on_whole
from groundup.optimizer.orthogonal import fast_dtype, orthogonalise

STACK_NUMBERS = {"cpu": 2**22}
"""How many numbers are orthogonalised at once, by device type; elsewhere 2**28 (512 MiB of bf16)."""


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon); AdamW where `muon` is false.

        m <- momentum m + (1 - momentum) g;   u = (1 - momentum) g + momentum m   (Nesterov; else u = m)
        w <- w - lr weight_decay w - lr sqrt(max(1, rows / columns)) orthogonal(u)

    The factor is Jordan's: an update's largest singular value is sqrt(rows / columns) for tall matrices and 1 for
    wide ones, so that it changes a layer's output equally at every width (Bernstein & Newhouse 2024, "Old
    Optimizer, New Norm") and a rate found on a small model serves a large one. With `cautious`, only numbers
    whose update moves them towards zero anyway are decayed (Chen et al. 2025, "Cautious Weight Decay").
    Matrices of one shape, transposed or not, are orthogonalised together. Where they are cut over ranks, each rank
    puts some of them together, and the others have theirs back in parts.

    Args:
        groups: parameter groups with `muon` (bool), `lr` and `weight_decay`; those with `muon` hold matrices only.
        momentum, nesterov, cautious, polynomial, precision: of the Muon groups (see `orthogonal`).
        betas, eps, fused: of the AdamW groups.

    Raises:
        ValueError: a Muon group holds something that is not a matrix.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        nesterov: bool,
        cautious: bool,
        polynomial: str,
        precision: str,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
    ) -> None:
        muon = {
            "momentum": momentum,
            "nesterov": nesterov,
            "cautious": cautious,
            "polynomial": polynomial,
            "precision": precision,
        }
        adam = {"betas": betas, "eps": eps, "fused": fused}
        super().__init__([{**group, **(muon if group["muon"] else adam)} for group in groups], {})
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["muon"] and parameter.ndim != 2:
                    raise ValueError(
                        f"Muon moves matrices; {group['name']} holds one of shape {tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved and group["muon"]:
                self._muon(moved, group)
            elif moved:
                self._adamw(moved, group)
        return loss

    def _muon(self, moved: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [own(parameter.grad) for parameter in moved]  # type: ignore[arg-type]  # `moved` have one
        momenta = [own(self._zeros(parameter, "momentum")) for parameter in moved]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        for stack in stacks(moved):
            parameters = [moved[i] for i in stack]
            made = on_whole(parameters, [updates[i] for i in stack], lambda whole: _orthogonal(whole, group))
            for parameter, update in zip(parameters, made, strict=True):
                self._move(own(parameter), update, math.sqrt(max(1.0, parameter.shape[0] / parameter.shape[1])), group)

    @staticmethod
    def _move(parameter: Tensor, update: Tensor, factor: float, group: dict[str, Any]) -> None:
        lr, decay = group["lr"], group["lr"] * group["weight_decay"]
        if group["cautious"] and decay:
            shrinking = (update * parameter > 0).to(parameter.dtype)
            parameter.addcmul_(parameter, shrinking, value=-decay)
        elif decay:
            parameter.mul_(1 - decay)
        parameter.add_(update, alpha=-lr * factor)

    def _adamw(self, moved: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        adamw(
            [own(parameter) for parameter in moved],
            [own(parameter.grad) for parameter in moved],  # type: ignore[arg-type]  # `moved` have one
            [own(self._zeros(parameter, "exp_avg")) for parameter in moved],
            [own(self._zeros(parameter, "exp_avg_sq")) for parameter in moved],
            [],
            [self._steps(parameter, group["fused"]) for parameter in moved],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _zeros(self, parameter: Tensor, key: str) -> Tensor:
        state = self.state[parameter]
        if key not in state:
            state[key] = torch.zeros_like(parameter)
        value: Tensor = state[key]
        return value

    def _steps(self, parameter: Tensor, fused: bool) -> Tensor:
        state = self.state[parameter]
        if "step" not in state:  # the fused kernel counts on the device, the others on the host
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
        value: Tensor = state["step"]
        return value


def _orthogonal(updates: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The orthogonal factors of matrices of one shape, transposed or not, in their dtype."""
    wide = [update if update.shape[0] <= update.shape[1] else update.mT for update in updates]
    dtype = fast_dtype(updates[0], group["precision"])
    stacked_NRC = torch.empty((len(wide), *wide[0].shape), dtype=dtype, device=wide[0].device)
    torch._foreach_copy_(list(stacked_NRC.unbind()), wide)
    made = orthogonalise(stacked_NRC, group["polynomial"]).to(updates[0].dtype).unbind()
    return [one if update.shape[0] <= update.shape[1] else one.mT for one, update in zip(made, updates, strict=True)]


def stacks(matrices: list[Tensor]) -> list[list[int]]:
    """Which matrices to orthogonalise together: of one shape up to transposition, dtype and device, not too many.

    Returns:
        Lists of indices, each index once, in the order of first appearance.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, matrix in enumerate(matrices):
        # What is cut over the same ranks is put together by them.
        cuts = tuple(group.group_name for group, _ in cut_along(matrix))
        alike.setdefault((*sorted(matrix.shape), matrix.dtype, matrix.device, cuts), []).append(number)
    made: list[list[int]] = []
    for members in alike.values():
        first = matrices[members[0]]
        share = math.prod(group.size() for group, _ in cut_along(first))
        most = max(1, STACK_NUMBERS.get(first.device.type, 2**28) // max(1, first.numel())) * share
        made.extend(members[i : i + most] for i in range(0, len(members), most))
    return made
