"""Where in a network numbers first stopped being finite: it looks at a step whose gradient is still there."""

from __future__ import annotations

import re
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, distributed

from groundup.callback.watched import Watched
from groundup.data.step import Step
from groundup.model.parts import own


@torch.no_grad()
def culprit(trainer: Trainer, module: Watched, step: Step) -> str:
    """Name what is not finite: a weight; else the first module to give such an output; else the last such gradient.

    Outputs are those of another forward pass, with the noise of the first, where every rank has the whole nets.
    Backward passes go from a network's end to its beginning, so the last gradient is the first that was made. All ranks
    call this together, and are told the same.
    """
    spread: Any = trainer.strategy
    names = {name: parameter for name, parameter in module.nets.named_parameters() if parameter.requires_grad}
    every = sorted({*names, *spread.elsewhere}, key=_depth)
    if bad := _anywhere(trainer, every, {name for name, weight in names.items() if _broken(weight)}):
        return f"weight {bad[0]}"
    if getattr(spread, "whole", True):
        found = _first_output(module, step)
        parts = [name for name, _ in module.nets.named_modules()]
        if bad := _anywhere(trainer, parts, {found} - {None}):
            return f"output of {bad[0]}"
    broken = {name for name, weight in names.items() if weight.grad is not None and _broken(weight.grad)}
    bad = _anywhere(trainer, every, broken)
    return f"gradient of {bad[-1]}" if bad else "no single number: a sum is too large"


def _first_output(module: Watched, step: Step) -> Any:
    """The name of the module whose forward pass was the first to end with a number that is not finite; or None."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(part: Any, given: Any, made: Any) -> None:
            del part, given
            if not found and any(_broken(tensor) for tensor in (made if isinstance(made, tuple) else (made,))):
                found.append(name)

        return hook

    hooks = [part.register_forward_hook(look(name)) for name, part in module.nets.named_modules() if name]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code calls no hooks
            for number, batch in enumerate(step.micro_batches):
                if not found:
                    module.output(step, number, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _anywhere(trainer: Trainer, every: list[str], mine: set[Any]) -> list[str]:
    """Those of all names that any rank has among its own."""
    flags = torch.tensor([name in mine for name in every], dtype=torch.int32, device=trainer.strategy.root_device)
    if trainer.world_size > 1:
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return [name for name, flag in zip(every, flags.tolist(), strict=True) if flag]


def _broken(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(own(tensor).isfinite().all())


def _depth(name: str) -> tuple[int, list[int], str]:
    """Sorts parameters by where in a forward pass they come: embeddings, blocks by their numbers, the rest."""
    numbers = [int(number) for number in re.findall(r"(?<=blocks\.)\d+", name)]
    return (1, numbers, name) if numbers else (0 if "embed" in name or "positions" in name else 2, [], name)
