"""What the tests of context parallelism run under torchrun: each process compares its share with the whole net's work.

torchrun ... context_ranks.py FOLDER TASK...
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from tensor_ranks import CASES as TENSOR_CASES
from tensor_ranks import SHAPE, farthest, generated
from torch import Tensor, distributed
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the kinds
from groundup.strategy import context, tensor
from groundup.strategy.recompute import recompute_blocks

CASES = tuple(name for name, options in TENSOR_CASES.items() if "kind" not in options)
"""The decoders: every scheme of positions, a sliding window, a prefix that is seen whole, shift, experts."""

LENGTH = 16


def build(case: str, **otherwise: Any) -> Any:
    """A net in float64, the same wherever it is built, in which nothing is zero or one."""
    net = from_dict("model", {"kind": "decoder"} | SHAPE | TENSOR_CASES[case] | otherwise).build().double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.dim() == 1))
    return net


def shown(net: Any, packed: bool, rows: int = 3, length: int = LENGTH) -> dict[str, Any]:
    """A micro-batch: rows of one document, or of several that end anywhere, whose positions begin anew."""
    generator = torch.Generator().manual_seed(length)
    draw = lambda high: torch.randint(high, (rows, length), generator=generator)  # noqa: E731
    tokens, targets = draw(101), draw(101)
    targets[draw(4) == 0] = -100
    found = {"tokens_BT": tokens, "targets_BT": targets, "with_log_z": True, "with_routing": net.routes}
    if packed:
        documents = (draw(5) == 0).long().cumsum(dim=1)
        found["documents_BT"] = documents
        found["positions_BT"] = torch.stack([_counted(row) for row in documents])
    if net.config.mask == "prefix":
        found["prefix_BT"] = torch.arange(length).expand(rows, length) % 7 < 3
    return found


def _counted(documents_T: Tensor) -> Tensor:
    return torch.cat([torch.arange(int(many)) for many in documents_T.unique_consecutive(return_counts=True)[1]])


def loss(found: Any, ranks: int) -> Tensor:
    """A rank's part of a number that weighs every likelihood, normaliser and routing differently.

    How uneven routers are is whole on every rank, and so counts a share on each.
    """
    nll, log_z, *routing = found
    weights = torch.linspace(0.5, 1.5, nll.numel(), dtype=torch.float64).view_as(nll)
    total = (weights * nll).sum() + 0.1 * (weights.flip(0) * log_z**2).sum()
    return total + sum((uneven * weights[:, :2]).sum() / ranks for uneven in routing)


def pass_through(net: Any, packed: bool, group: Any = None, ranks: int = 1) -> dict[str, Tensor]:
    """All that a forward and a backward pass say, summed over ranks."""
    batch = shown(net, packed)
    net.zero_grad()
    nll, log_z, *routing = net(**batch)
    loss((nll, log_z, *routing), ranks).backward()
    said = {"nll": nll.detach(), "log_z": log_z.detach()}
    said |= {name: _whole(parameter.grad).clone() for name, parameter in net.named_parameters()}
    if ranks > 1:
        shown_here = int((said["log_z"] != 0).sum())
        assert shown_here == log_z.numel() // ranks, "a rank computes other positions than its own"
        for value in said.values():
            distributed.all_reduce(value, group=group)
    return said | {f"routing {number}": uneven.detach() for number, uneven in enumerate(routing)}


def _whole(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(())
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def nets(cases: tuple[str, ...] = CASES) -> dict[str, Any]:
    """Rows of one document and of several, on all ranks."""
    mesh, found = context_mesh(), {}
    for case in cases:
        for packed in (False, True):
            wanted = pass_through(build(case), packed)
            net = build(case)
            names = list(net.state_dict())
            context.spread(net, mesh)
            assert list(net.state_dict()) == names
            said = pass_through(net, packed, mesh.get_group(), mesh.size())
            found[f"{case} packed={packed}"] = farthest(said, wanted)
    return found


def again() -> dict[str, Any]:
    """Blocks that are computed again in the backward pass, with what ranks tell each other."""
    mesh, found = context_mesh(), {}
    for kind in ("selective", "full"):
        net = build("nano")
        recompute_blocks(net, kind)
        context.spread(net, mesh)
        said = pass_through(net, True, mesh.get_group(), mesh.size())
        found[kind] = farthest(said, pass_through(build("nano"), True))
    return found


def alone() -> dict[str, Any]:
    """What each rank says by itself: in generation, of further text, and where there are no targets."""
    found = {}
    for case in ("nano", "bloom", "gopher", "mistral", "experts"):
        net = build(case).eval()
        batch = {name: shown(net, False)[name] for name in ("tokens_BT", "prefix_BT") if name in shown(net, False)}
        wanted = generated(net) | {"logits": net(**batch).detach()}
        context.spread(net, context_mesh())
        found[case] = farthest(generated(net) | {"logits": net(**batch).detach()}, wanted)
    return found


def refused() -> str:
    """A window that cannot be cut into equal chunks."""
    net = build("llama")
    context.spread(net, context_mesh())
    tokens = torch.zeros(1, 14, dtype=torch.long)
    try:
        net(tokens, tokens)
    except ValueError as error:
        return str(error)
    return ""


def kept() -> dict[str, dict[str, int]]:
    """Numbers that a forward pass keeps for the backward one, of a longer window: by one rank alone, and by this."""
    found = {}
    for name, options in {"llama": {"kv_heads": 1}, "again": {"kv_heads": 1}}.items():
        counts = []
        for ranks in (1, distributed.get_world_size()):
            net = build("llama", **options, context=512, layers=4)
            if name == "again":
                recompute_blocks(net, "full")
            if ranks > 1:
                context.spread(net, context_mesh())
            counts.append(_kept(net, shown(net, True, 1, 512)))
        found[name] = dict(zip(("alone", "shared"), counts, strict=True))
    return found


def _kept(net: Any, batch: dict[str, Any]) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    storages: dict[int, Any] = {}

    def pack(saved: Tensor) -> Tensor:
        if not isinstance(saved, DTensor) and saved.untyped_storage().data_ptr() not in own:
            storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage()
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved):
        said = net(**batch)
    del said
    return sum(storage.nbytes() for storage in storages.values())


def four() -> dict[str, Any]:
    """Positions over four ranks."""
    return nets(("nano", "mistral", "experts"))


def grid() -> dict[str, Any]:
    """Positions over two ranks and matrices over two; and weights that are cut over all, of samples on two."""
    found = {}
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("context", "tensor"))
    for case in ("nano", "bloom", "experts"):
        net = build(case)
        tensor.spread(net, both["tensor"], sequence=True)
        context.spread(net, both["context"])
        said = pass_through(net, True, both["context"].get_group(), 2)
        found[f"{case} tensor"] = farthest(said, pass_through(build(case), True))
    world = init_device_mesh("cpu", (4,))
    pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    net, one = build("nano"), build("nano")
    context.spread(net, pairs["context"])
    for part in (*net.trunk.blocks.values(), net):
        fully_shard(part, mesh=world)
    batch = shown(one, True, rows=4)
    loss(one(**batch), 1).backward()
    mine = slice(0, 2) if pairs["data"].get_local_rank() == 0 else slice(2, 4)
    nll, log_z = net(**{name: rows[mine] if isinstance(rows, Tensor) else rows for name, rows in batch.items()})
    every = [torch.zeros(4, LENGTH, dtype=torch.float64).index_copy(0, torch.arange(4)[mine], x) for x in (nll, log_z)]
    loss(every, 1).backward()
    # fully_shard takes the mean over the four
    gradients = {name: 4 * _whole(parameter.grad) for name, parameter in net.named_parameters()}
    found["nano sharded"] = farthest(gradients, {n: _whole(parameter.grad) for n, parameter in one.named_parameters()})
    return found


def context_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (distributed.get_world_size(),))


if __name__ == "__main__":
    folder, *tasks = sys.argv[1:]
    warnings.simplefilter("error")
    distributed.init_process_group("gloo")
    for task in tasks:
        result = globals()[task]()
        torch.save(result, Path(folder) / f"{task}-{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
