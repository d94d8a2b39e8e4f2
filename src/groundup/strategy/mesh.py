"""Ranks on a mesh, and nets cut over those that read different samples; how a layer is split is left to others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import Shard

from groundup.core.layout import Grid
from groundup.model.net import Net
from groundup.model.parts import cut_along, own
from groundup.strategy import context, experts, tensor
from groundup.strategy.environment import Ranks
from groundup.strategy.gathered import ask_gathered
from groundup.strategy.meeting import leave_at_once, meet
from groundup.strategy.meshes import context_of, experts_of, mesh_of
from groundup.strategy.recompute import blocks_of
from groundup.strategy.stepping import Stepping

T = TypeVar("T")

WASTE = 1.05
"""By what factor padding may make a parameter longer, before it is rather cut along another dimension."""

PARCEL = 2**25
"""Numbers that travel together where gradients of copies are summed."""


class Mesh(Stepping, DDPStrategy):
    """Nets cut over the ranks that read different samples, gathered where they compute (FSDP2).

    Every rank keeps a part of each parameter, its gradient and its optimizer state (Rajbhandari et al. 2020, ZeRO,
    stages 2 and 3; Zhao et al. 2023, PyTorch FSDP). With `replicas`, groups of ranks hold all parts between them and
    are copies of each other (hybrid sharding). Gradients end as the sum over ranks, not the mean, since losses are
    already divided by the global count.

    Before that, the ranks along the grid's `tensor` share each layer, those along `context` the positions of each
    sample, and `experts` neighbours the experts of each layer.

    Args:
        devices: of the processes on this machine, by local rank.
        grid: how all ranks lie; those of a place in `context` hold parts of the same nets as those of `data`.
        timeout_minutes: how long a collective may wait.
        replicas: copies of the nets among the data ranks.
        sharded: cut the nets; else every data rank has a copy.
        sequence: where ranks share layers, cut what stands between their matrices by positions.
        reshard: forget what was gathered for a block behind its forward pass and gather it anew for the backward one.
        sum_every: sum gradients over ranks behind each micro-batch, so that none is ever kept whole.
        gather: dtype in which parameters are gathered and compute; None: their own.
        travel: dtype in which gradients travel and are summed, and positions on their way to experts; None: that of
            the weights as they are kept, or of the positions.
        offload: keep parts on the host and move them to the device where they compute.
    """

    whole = False
    apart = False

    def __init__(
        self,
        devices: list[torch.device],
        grid: Grid,
        *,
        timeout_minutes: float = 30.0,
        replicas: int = 1,
        sharded: bool = True,
        sequence: bool = True,
        reshard: bool = True,
        sum_every: bool = False,
        gather: torch.dtype | None = None,
        travel: torch.dtype | None = None,
        offload: bool = False,
    ) -> None:
        super().__init__(
            parallel_devices=devices,
            cluster_environment=Ranks(),
            process_group_backend="nccl" if devices[0].type == "cuda" else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.grid, self.replicas, self.sharded, self.sequence = grid, replicas, sharded, sequence
        self.reshard, self.sum_every, self.offload = reshard, sum_every, offload
        self.gather, self.travel = gather, travel
        self.mesh: DeviceMesh
        self.bank: DeviceMesh | None = None
        self.shares: context.Shares | None = None

    def _configure_launcher(self) -> None:
        """Leave launching to torchrun."""

    # Lightning's hooks

    def setup_distributed(self) -> None:
        """Meet the other processes first: Lightning takes a group that is there."""
        assert self._timeout is not None
        meet(self.root_device, self._timeout)
        super().setup_distributed()

    def on_exception(self, exception: BaseException) -> None:
        """Lose no time over groups when this rank fails."""
        leave_at_once(exception)
        super().on_exception(exception)

    def setup_environment(self) -> None:
        """Meet the other ranks, and find this one's place among them."""
        super().setup_environment()
        # Nothing here is changed in place behind a net.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self.mesh = mesh_of(self.root_device.type, self.grid, self.replicas)

    def setup(self, trainer: Trainer) -> None:
        """Make the optimizer over the parts; nets are spread and on their device already."""
        assert self.accelerator is not None and self.model is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def model_to_device(self) -> None:
        """Move what is left to the device; what is offloaded stays."""
        assert self.lightning_module is not None
        if self.offload:
            cast(Any, self.lightning_module)._device = self.root_device
        else:
            self.lightning_module.to(self.root_device)

    def teardown(self) -> None:
        """Leave the parts where they are, to go with the module: after a failure some may stand gathered."""
        module, self._lightning_module = self._lightning_module, None
        super().teardown()
        self._lightning_module = module

    @property
    def share(self) -> tuple[int, int]:
        """That of this rank's place among those that read different samples; see `Stepping`."""
        return self.grid.place(self.global_rank).data, self.grid.data

    # Nets

    def split(self, net: nn.Module) -> None:
        """Share each layer, positions and experts over the ranks of `tensor`, `context` and `experts`, if several."""
        if self.grid.tensor > 1:
            tensor.spread(cast(Net, net), self.mesh["tensor"], self.sequence)
        if self.grid.context > 1:
            mesh = context_of(self.root_device.type, self.grid)
            self.shares = context.spread(cast(Net, net), mesh)
        if self.grid.experts > 1:
            self.bank = experts_of(self.root_device.type, self.grid, self.replicas)
            experts.spread(net, self.bank[experts.EXPERTS], self.travel)

    def settle(self, net: nn.Module) -> None:
        """Shard a net and give it the memory of its parts.

        The net itself, with embeddings, norms and head, is one parcel and each block another, so that little more than
        a block is ever whole at once. Experts that are shared out, and their routers, are parcels of their own, as they
        are cut over other ranks than the rest.
        """
        if not self.sharded:
            super().settle(net)
            return
        if not any(parameter.is_meta for parameter in net.parameters()):
            net.to(self.root_device)
        dtype = next(net.parameters()).dtype
        for layer in [module for module in net.modules() if isinstance(module, experts.Experts)]:
            assert self.bank is not None
            self._cut(layer.router, self.mesh, "shard", dtype)
            self._cut(layer, self.bank, "alike", dtype)
        for part in (*blocks_of(net), net):
            # what the net gathers, its backward pass needs at once
            self._cut(part, self.mesh, "shard", dtype, kept=part is net)
        if any(parameter.is_meta for parameter in net.parameters()):
            net.to_empty(device=torch.device("cpu") if self.offload else self.root_device)
            for owner in net.modules():
                for name, buffer in list(owner.named_buffers(recurse=False)):
                    setattr(owner, name, buffer.to(self.root_device))
        ask_gathered(net)

    def _cut(self, part: nn.Module, mesh: DeviceMesh, along: str, dtype: torch.dtype, kept: bool = False) -> None:
        """Cut a part of a net, but for what is cut in it already.

        Args:
            part: gathered as a parcel of its own.
            mesh: of all ranks; those along `replicate` have copies.
            along: the dimension over which to cut.
            dtype: of the weights as they are kept.
            kept: what is gathered stays for the backward pass.
        """
        ways = mesh[along].size()
        fully_shard(
            part,
            mesh=mesh["replicate", along] if self.replicas > 1 else mesh[along],
            reshard_after_forward=self.reshard and not kept,
            shard_placement_fn=lambda parameter: _along(parameter, ways),
            mp_policy=MixedPrecisionPolicy(self.gather, self.travel or dtype, cast_forward_inputs=False),
            offload_policy=CPUOffloadPolicy(self.root_device.type == "cuda") if self.offload else OffloadPolicy(),
        )
        cast(FSDPModule, part).set_gradient_divide_factor(1.0)
        cast(FSDPModule, part).set_force_sum_reduction_for_comms(True)

    def compile(self, nets: nn.ModuleDict) -> None:
        """Compile each block by itself, so that gathering stays outside and one graph serves all layers alike."""
        for net in nets.values():
            cast(Any, net).compile_(blocks=True) if self.sharded else cast(Any, net).compile_()

    # Steps

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Move a Step to the device; of its targets, keep those of this rank's positions, so that all count once."""
        moved = super().batch_to_device(batch, device, dataloader_idx)
        return moved if self.shares is None else moved.only(self.shares.places)

    def forward_backward(self, micro_batches: Sequence[T], loss: Callable[[int, T], Tensor]) -> None:
        """Add the gradient over all ranks; see `Stepping`."""
        super().forward_backward(micro_batches, loss)
        if not self.sharded:
            assert self.lightning_module is not None
            self.sum_copies(list(self.lightning_module.parameters()))

    def sum_copies(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum what ranks have as gradients of their copies; of experts, over the ranks that have the same."""
        for shared_out in (False, True) if self.bank is not None else (False,):
            alike = [one for one in parameters if experts.is_shared_out(one) == shared_out]
            sum_gradients(alike, self.sums_over(shared_out), self.travel)

    def quiet(self) -> AbstractContextManager[None]:
        """A context in which gradients are added up here and not yet over ranks."""
        return nullcontext() if self.sum_every else self._quiet()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        assert self.lightning_module is not None
        parts = [part for part in self.lightning_module.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_requires_gradient_sync(True, recurse=False)

    def sums_over(self, shared_out: bool = False) -> list[distributed.ProcessGroup]:
        """The groups, one after the other, over which what ranks see of different tokens is summed.

        Args:
            shared_out: for what is known of one's own experts, which those who hold others have seen already.
        """
        mesh, names = (self.bank, ("alike", "replicate")) if shared_out else (self.mesh, ("shard", "replicate"))
        assert mesh is not None
        return [mesh.get_group(name) for name in names if name in (mesh.mesh_dim_names or ())]

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks that see different tokens; others hold the same. See `Stepping`."""
        total = tensor.detach().to(self.root_device, copy=True)
        for group in self.sums_over():
            distributed.all_reduce(total, group=group)
        return total.to(tensor.device)

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The 2-norm of the whole gradient: squares of parts are summed over the ranks that hold the others.

        So what several ranks have copies of counts once. See `Stepping`.
        """
        alike: dict[tuple[str, ...], tuple[list[Any], list[Tensor]]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                groups = [group for group, _ in cut_along(parameter.grad)]
                key = tuple(group.group_name for group in groups)
                alike.setdefault(key, (groups, []))[1].append(own(parameter.grad))
        total = torch.zeros((), dtype=torch.float64, device=self.root_device)
        wide = torch.float32
        for groups, parts in alike.values():
            wide = torch.promote_types(wide, parts[0].dtype)
            norms = torch._foreach_norm(parts, 2.0, dtype=wide)
            square = torch.stack(norms).double().square().sum().to(self.root_device)
            for group in groups:
                distributed.all_reduce(square, group=group)
            total = total + square
        return total.sqrt().to(wide)


def sum_gradients(
    parameters: Sequence[nn.Parameter], groups: Sequence[distributed.ProcessGroup], travel: torch.dtype | None = None
) -> None:
    """Add gradients, or this rank's parts of them, up over groups of ranks, one group after the other, in parcels.

    Args:
        parameters: those without a gradient are left out.
        groups: of ranks that have gradients of the same parameters.
        travel: dtype in which they travel and are summed; None: their own.
    """
    groups = [group for group in groups if group.size() > 1]
    gradients = [own(parameter.grad) for parameter in parameters if parameter.grad is not None]
    parcels: list[list[Tensor]] = []
    room = 0
    for gradient in gradients if groups else ():
        if not parcels or gradient.numel() > room or gradient.dtype != parcels[-1][0].dtype:
            parcels.append([])
            room = PARCEL
        parcels[-1].append(gradient)
        room -= gradient.numel()
    for parcel in parcels:
        flat = torch.cat([gradient.flatten() for gradient in parcel])
        flat = flat.to(travel or flat.dtype)
        for group in groups:
            distributed.all_reduce(flat, group=group)
        pieces = torch.split(flat, [gradient.numel() for gradient in parcel])
        torch._foreach_copy_(parcel, [piece.view_as(g) for piece, g in zip(pieces, parcel, strict=True)])


def _along(parameter: nn.Parameter, ways: int) -> Shard | None:
    """Along which dimension to cut: the first, unless that leaves some ranks with little and another is even.

    Of what tensor ranks share, the longest part counts, so that all of them cut alike.
    """
    shared = [1] * parameter.dim()
    for group, dimension in cut_along(parameter):
        shared[dimension] = group.size()
    most = -(-parameter.shape[0] // shared[0])
    if -(-most // ways) * ways <= WASTE * most:
        return None
    lengths = zip(parameter.shape, shared, strict=True)
    return next((Shard(i) for i, (length, among) in enumerate(lengths) if length % (among * ways) == 0), None)
