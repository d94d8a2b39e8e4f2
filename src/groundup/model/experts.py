"""A feed-forward of many experts, few of which read each position; what imbalance costs is the objective's affair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.feedforward import activated
from groundup.model.linear import Linear

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


class Routing:
    """Takes up what `router_losses` says of each layer, (B, 2).

    No list: hooks that look into a module's arguments put lists together anew, and what is added to a new one is lost.
    """

    def __init__(self, layers: Iterable[Tensor] = ()) -> None:
        self.layers = list(layers)

    def append(self, losses_B2: Tensor) -> None:
        """Take up a layer's."""
        self.layers.append(losses_B2)

    def means(self, logits_BTE: Tensor, index_BTK: Tensor) -> Tensor:
        """`router_means` of whole rows, which are all here."""
        return router_means(logits_BTE, index_BTK)


class Bank(nn.Module):
    """A matrix per expert."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))


class Experts(nn.Module):
    """Each position is read by the k experts that its router likes best, weighed by a softmax over these k.

    No position is dropped (Jiang et al. 2024, Mixtral, section 2.1); the experts are feed-forwards without biases.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.activation, self.count, self.chosen = config.activation, config.expert_count, config.experts_per_token
        self.router = Linear(config.width, self.count, bias=False)
        self.up = Bank(self.count, config.width, config.feedforward)
        self.gate = Bank(self.count, config.width, config.feedforward) if config.gated else None
        self.down = Bank(self.count, config.feedforward, config.width)

    def forward(self, x_BTD: Tensor, routing: Routing | None = None) -> Tensor:
        """(B, T, D) to (B, T, D).

        Args:
            x_BTD: the normed stream.
            routing: takes up what `router_losses` says of each row, (B, 2).
        """
        logits_BTE = self.router(x_BTD)
        logits_BTE = logits_BTE.to(torch.promote_types(logits_BTE.dtype, torch.float32))
        top_BTK, index_BTK = logits_BTE.topk(self.chosen, dim=-1)
        if routing is not None:
            routing.append(uneven(routing.means(logits_BTE, index_BTK)))
        share_BTK = top_BTK.softmax(dim=-1).to(x_BTD.dtype)
        eager: Any = torch.compiler.disable  # how many positions an expert reads is known only when it is run
        mixed_ND: Tensor = eager(self._read)(x_BTD.flatten(0, 1), index_BTK.flatten(0, 1), share_BTK.flatten(0, 1))
        return mixed_ND.view_as(x_BTD)

    def _read(self, x_ND: Tensor, index_NK: Tensor, share_NK: Tensor) -> Tensor:
        order = index_NK.flatten().argsort(stable=True)
        counts = index_NK.flatten().bincount(minlength=self.count).tolist()
        rows = order // self.chosen
        read_RD = self.read(x_ND[rows], counts) * share_NK.flatten()[order, None]
        mixed_ND = torch.zeros_like(x_ND)
        # expert by expert, each of which reads a position once: a sum that is the same every time on every device
        for places, read in zip(torch.split(rows, counts), torch.split(read_RD, counts), strict=True):
            mixed_ND = mixed_ND.index_add(0, places, read.to(mixed_ND.dtype))
        return mixed_ND

    def read(self, x_RD: Tensor, counts: Sequence[int]) -> Tensor:
        """What experts make of positions that are sorted by the expert that is to read them, (R, D) to (R, D).

        Args:
            x_RD: positions, each as often as there are experts for it.
            counts: how many of them are for each of the experts that are here.
        """
        parts = torch.split(x_RD, list(counts))
        return torch.cat([self._expert(part, number) for number, part in enumerate(parts)])

    def _expert(self, x_ND: Tensor, number: int) -> Tensor:
        up_NF = functional.linear(x_ND, self.up.weight[number])
        gate_NF = None if self.gate is None else functional.linear(x_ND, self.gate.weight[number])
        return functional.linear(activated(self.activation, up_NF, gate_NF), self.down.weight[number])


def router_means(logits_BTE: Tensor, index_BTK: Tensor) -> Tensor:
    """Means over the positions of each row, (B, 2E + 1), of which `router_losses` are made.

    They are the share of choices that fall on each expert, its probability, and the squared log-partition.
    """
    falls_BE = functional.one_hot(index_BTK, logits_BTE.shape[-1]).to(logits_BTE.dtype).mean(dim=(1, 2))
    z_B = logits_BTE.logsumexp(dim=-1).square().mean(dim=1)
    return torch.cat((falls_BE, logits_BTE.softmax(dim=-1).mean(dim=1), z_B[:, None]), dim=1)


def router_losses(logits_BTE: Tensor, index_BTK: Tensor) -> Tensor:
    """How uneven a router is, and how large its logits are, over each row: (B, 2).

    The first is E sum_e f_e P_e, with f_e the share of choices that fall on expert e and P_e its mean probability: 1
    where all are alike, E where one has all (Fedus et al. 2022, equations 4 to 6). The second is the mean squared
    log-partition (Zoph et al. 2022, ST-MoE, equation 5).

    Args:
        logits_BTE: of the router.
        index_BTK: the experts chosen.
    """
    return uneven(router_means(logits_BTE, index_BTK))


def uneven(means_BM: Tensor) -> Tensor:
    """`router_losses` by the means of rows."""
    experts = means_BM.shape[1] // 2
    falls_BE, mean_BE, z_B1 = torch.split(means_BM, [experts, experts, 1], dim=1)
    balance_B, z_B = experts * (falls_BE * mean_BE).sum(dim=-1), z_B1[:, 0]
    return torch.stack((balance_B, z_B), dim=-1)
