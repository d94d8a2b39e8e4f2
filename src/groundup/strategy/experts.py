"""Expert parallelism: the experts of each layer shared out to ranks whole; which positions go to which is the model's.

Ranks that read different samples hold different experts. Positions travel to those of their choice and back, one
all-to-all each way, and so do gradients in the backward pass (Lepikhin et al. 2020, GShard; Rajbhandari et al. 2022,
DeepSpeed-MoE). As many go to a rank as chose its experts: none is dropped, and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from groundup.model import experts
from groundup.strategy.part import Part, Ranks, Share

EXPERTS = "experts"
"""The dimension of a mesh along which experts are shared out."""


class Exchange(torch.autograd.Function):
    """Rows sent to ranks and received from them; the gradients go back the way that rows came."""

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, sent: list[int], received: list[int], group: distributed.ProcessGroup
    ) -> Tensor:
        """Rows in the order of ranks, (R, D), to those that come, in the order of ranks.

        Args:
            ctx: for the backward pass.
            x_RD: this rank's rows.
            sent: how many go to each rank.
            received: how many come from each.
            group: the ranks.
        """
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchanged(x_RD, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient_RD: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of what was sent."""
        return _exchanged(gradient_RD, ctx.received, ctx.sent, ctx.group), None, None, None


class Experts(Part, experts.Experts):
    """This rank's experts, which read what all ranks send them; the router is whole on every rank.

    Attributes:
        travel: dtype in which rows go to the experts and back; None: their own.
    """

    travel: torch.dtype | None
    forward = experts.Experts.forward  # parameters are read below, behind what a compiler sees

    def read(self, x_RD: Tensor, counts: Sequence[int]) -> Tensor:
        """As with all experts here."""
        ranks, group = self.ranks.count, self.ranks.mesh.get_group()
        each = self.count // ranks
        chosen_RE = torch.tensor(counts, device=x_RD.device).view(ranks, each)
        asked_RE = torch.empty_like(chosen_RE)
        distributed.all_to_all_single(asked_RE, chosen_RE, group=group)
        sent, received, asked = chosen_RE.sum(dim=1).tolist(), asked_RE.sum(dim=1).tolist(), asked_RE.tolist()
        came_RD = self._travelled(x_RD, sent, received, group)
        # what comes is sorted by rank, and by expert within; experts read it sorted by themselves
        pieces = torch.split(came_RD, [count for row in asked for count in row])
        read_RD = torch.cat([piece for expert in range(each) for piece in pieces[expert::each]])
        with self.reading():
            read_RD = super().read(read_RD, asked_RE.sum(dim=0).tolist())
        pieces = torch.split(read_RD, [row[expert] for expert in range(each) for row in asked])
        back_RD = torch.cat([piece for rank in range(ranks) for piece in pieces[rank::ranks]])
        return self._travelled(back_RD, received, sent, group)

    def _travelled(self, x_RD: Tensor, sent: list[int], received: list[int], group: distributed.ProcessGroup) -> Tensor:
        exchange: Any = Exchange.apply
        came: Tensor = exchange(x_RD.to(self.travel or x_RD.dtype), sent, received, group)
        return came.to(x_RD.dtype)


def spread(net: nn.Module, mesh: DeviceMesh, travel: torch.dtype | None = None) -> None:
    """Share the experts of each layer of a net out to ranks, in place; their banks become DTensors under their names.

    Args:
        net: the same on every rank; its experts divide by the ranks.
        mesh: the ranks, in one dimension called `EXPERTS`; all of them must ask the net at the same time.
        travel: dtype in which positions go to the experts and back; None: their own.
    """
    ranks = Ranks(mesh, sequence=False)
    for layer in [module for module in net.modules() if type(module) is experts.Experts]:
        layer.__class__ = Experts
        assert isinstance(layer, Experts)
        layer.ranks, layer.reads, layer.travel = ranks, [], travel
        for bank in (layer.up, layer.gate, layer.down):
            if bank is not None:
                laid = distribute_tensor(bank.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
                bank.weight = nn.Parameter(laid, requires_grad=bank.weight.requires_grad)
                layer.reads.append((bank, "weight", Share(cut=-3)))


def is_shared_out(parameter: Tensor) -> bool:
    """Whether it is a bank of experts, of which each rank has some."""
    mesh: DeviceMesh | None = getattr(parameter, "device_mesh", None)
    return mesh is not None and EXPERTS in (mesh.mesh_dim_names or ())


def _exchanged(x_RD: Tensor, sent: list[int], received: list[int], group: distributed.ProcessGroup) -> Tensor:
    came_RD = x_RD.new_empty(sum(received), *x_RD.shape[1:])
    distributed.all_to_all_single(came_RD, x_RD.contiguous(), received, sent, group=group)
    return came_RD
