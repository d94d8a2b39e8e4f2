"""How ranks lie in torch's meshes, each of which is made once; what is spread over them is not known here."""

from __future__ import annotations

from typing import Any

from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from groundup.core.layout import Grid
from groundup.strategy.experts import EXPERTS


def mesh_of(kind: str, grid: Grid, replicas: int) -> DeviceMesh:
    """The mesh of all ranks, with the dimensions that are longer than 1 and always `shard`.

    `pipeline`, `replicate`, `shard`, `tensor`, from the outermost to the innermost. Ranks along `context` have places
    in `shard` too: they see other tokens of the same samples, so gradients are summed over them as over samples.

    Args:
        kind: of device.
        grid: how ranks lie.
        replicas: copies of the nets among the data ranks, which it divides.
    """
    shard = grid.data * grid.context // replicas
    sizes = {"pipeline": grid.pipeline, "replicate": replicas, "shard": shard, "tensor": grid.tensor}
    return _made(kind, {name: size for name, size in sizes.items() if size > 1 or name == "shard"})


def context_of(kind: str, grid: Grid) -> DeviceMesh:
    """The ranks that read the same samples as this one and compute other positions, in one dimension."""
    sizes = {"apart": grid.pipeline * grid.data, "context": grid.context, "tensor": grid.tensor}
    return _made(kind, sizes)["context"]


def experts_of(kind: str, grid: Grid, replicas: int) -> DeviceMesh:
    """All ranks as experts lie on them: of those in `shard`, neighbours hold different ones and `alike` ranks the same.

    `pipeline`, `replicate`, `alike` and `EXPERTS`, of which the first two may be missing; arguments as for `mesh_of`.
    """
    alike = grid.data * grid.context // replicas // grid.experts
    sizes = {"pipeline": grid.pipeline, "replicate": replicas, "alike": alike, EXPERTS: grid.experts}
    return _made(kind, {name: size for name, size in sizes.items() if size > 1 or name in ("alike", EXPERTS)})


def _made(kind: str, sizes: dict[str, int]) -> DeviceMesh:
    key = (kind, tuple(sizes.items()), distributed.group.WORLD)
    if key not in _meshes:  # a run's segments share their process groups
        _meshes[key] = init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    return _meshes[key]


_meshes: dict[Any, DeviceMesh] = {}
