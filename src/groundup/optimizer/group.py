"""Which parameter belongs to which group, decided by its name and rank alone; no model is known here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

EMBEDDINGS = ("wte", "wpe", "positions", "values")
"""Names of look-up tables that do not say `embed`, outside `blocks`."""

ROLES = ("matrix", "embedding", "head", "other", "vector")
"""Every parameter has one role; groups stand in this order."""


def role(name: str, parameter: nn.Parameter) -> str:
    """What a parameter is, as far as an optimizer cares.

    Returns:
        "vector": fewer than two dimensions: norms, biases, scalars.
        "embedding": a part of the dotted name contains `embed`, or is one of `EMBEDDINGS` outside `blocks`.
        "matrix": two-dimensional and inside `blocks`.
        "head": a part of the name is `head` or ends with `_head`, outside `blocks`.
        "other": what remains.
    """
    parts = name.split(".")
    if parameter.ndim < 2:
        return "vector"
    if any("embed" in part for part in parts):
        return "embedding"
    if "blocks" in parts:
        return "matrix" if parameter.ndim == 2 else "other"
    if any(part in EMBEDDINGS for part in parts):
        return "embedding"
    return "head" if any(part == "head" or part.endswith("_head") for part in parts) else "other"


def carries(before: Any, after: Any, role: str | None) -> bool:
    """Whether what an optimizer remembers of parameters means the same to the one that takes over from it.

    It does where both move them by the same rule: AdamW's moments and step counts, to Muon's AdamW. Muon's momentum is
    of other length than AdamW's first moment and knows no step count, so there each begins anew.

    Args:
        before, after: configs of optimizers.
        role: of the parameters; None: not known, as of a plugin's groups.
    """
    one, other = (getattr(config, "rules", {}).get(role, config.kind) for config in (before, after))
    return bool(one == other)


def by_role(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of each role that has any, in the order given.

    Raises:
        ValueError: a name or a parameter comes twice, or nothing is trainable.
    """
    found: dict[str, list[nn.Parameter]] = {name: [] for name in ROLES}
    names: set[str] = set()
    owners: dict[int, str] = {}
    for name, parameter in named_parameters:
        if name in names:
            raise ValueError(f"two parameters are named {name}")
        if id(parameter) in owners:
            raise ValueError(f"{name} and {owners[id(parameter)]} are one parameter; give it once")
        names.add(name)
        owners[id(parameter)] = name
        if parameter.requires_grad:
            found[role(name, parameter)].append(parameter)
    if not any(found.values()):
        raise ValueError("no parameter is trainable")
    return {name: members for name, members in found.items() if members}


def rescale(
    optimizer: Optimizer, named_parameters: Iterable[tuple[str, nn.Parameter]], scales: Mapping[str, float]
) -> None:
    """Multiply the rates of some parameters, each scale's in a group of its own; decay goes with the rate.

    Groups that orthogonalise (Muon) stay: their updates do not grow with a matrix's width.

    Args:
        optimizer: of groups that have a `peak`.
        named_parameters: those of the nets.
        scales: factors by name.
    """
    by_parameter = {id(parameter): scales[name] for name, parameter in named_parameters if name in scales}
    for group in list(optimizer.param_groups):
        if group.get("muon"):
            continue
        found: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            found.setdefault(by_parameter.get(id(parameter), 1.0), []).append(parameter)
        rest = {key: value for key, value in group.items() if key != "params"}
        for number, (scale, members) in enumerate(sorted(found.items(), key=lambda entry: -entry[0])):
            scaled = {"lr": rest["lr"] * scale, "peak": rest["peak"] * scale}
            if number == 0:
                group.update(params=members, **scaled)
            else:
                optimizer.add_param_group({**rest, **scaled, "params": members})


def groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    peaks: Mapping[str, float],
    decays: Mapping[str, float],
    l1: float,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer.

    Args:
        named_parameters: each parameter once, by its full name; frozen ones are left out.
        peaks: peak rate by role.
        decays: weight decay by role, 0 where none is given; `l1` goes to the groups that decay by right, not in value.
        l1: strength of the L1 penalty.

    Returns:
        One group per role that has parameters, with `name`, `params`, `lr` and `peak` (both the peak rate),
        `weight_decay` and `l1`; where nets are split, one per role and mesh, as torch moves those of a mesh together.

    Raises:
        ValueError: as `by_role`.
    """
    return [
        {
            "name": name,
            "params": members,
            "lr": peaks[name],
            "peak": peaks[name],
            "weight_decay": decays.get(name, 0.0),
            "l1": l1 if name in decays else 0.0,
        }
        for name, all_members in by_role(named_parameters).items()
        for members in _by_mesh(all_members)
    ]


def _by_mesh(members: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that are split over the same ranks, and those that are whole."""
    found: dict[Any, list[nn.Parameter]] = {}
    for parameter in members:
        found.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return list(found.values())
