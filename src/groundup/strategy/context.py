"""Context parallelism: the positions of each sample, spread over ranks; objectives know nothing of it, nor does a net.

Each rank computes its share of the positions through all layers. In attention, queries are its own, and the keys and
values of all positions are gathered: all-gather in the forward pass, reduce-scatter of their gradients in the backward
one (Dubey et al. 2024, Llama 3, section 3.3.2). Passing them on in a ring (Liu et al. 2023, Ring Attention) would keep
less of them at a time; gathered, every mask and every scheme of positions stays what it is, and with few groups of
keys and values they are small beside the rest. Keys are gathered as attention reads them, turned and normed, before
heads share them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

from groundup.model import attention, decoder, trunk
from groundup.model.experts import Routing, router_means
from groundup.strategy.cutting import check_context
from groundup.strategy.part import ADDENDS, POSITIONS, WHOLE, Ranks

if TYPE_CHECKING:
    from groundup.model.cache import LayerCache
    from groundup.model.frame import Frame
    from groundup.model.net import Net


class Shares:
    """Which positions are whose, and what ranks tell each other of them.

    A window is cut into 2c chunks for c ranks, of which rank r has chunks r and 2c - 1 - r, so that all ranks have
    equal work where a position sees those before it alone (as in Llama 3).

    Args:
        mesh: the ranks, in one dimension.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.ranks = Ranks(mesh, sequence=False)
        self.chunks = places_of(self.ranks.number, self.ranks.count)

    def places(self, length: int, device: torch.device) -> Tensor:
        """Where in a window this rank's positions stand, (T / c,) int64, rising.

        Raises:
            ValueError: the window cannot be cut into equal chunks.
        """
        chunks = 2 * self.ranks.count
        if length % chunks:
            raise ValueError(f"a window of {length} positions for {self.ranks.count} ranks, which need {chunks} chunks")
        within = torch.arange(length // chunks, device=device)
        return torch.cat([chunk * len(within) + within for chunk in self.chunks])

    def gathered(self, x_BT: Tensor) -> Tensor:
        """What all ranks have of a window, in its order: (B, T / c, ...) to (B, T, ...); gradients of ranks add up."""
        found = self.ranks.moved(x_BT, POSITIONS, WHOLE, ADDENDS)
        pairs = found.view(len(found), self.ranks.count, 2, -1, *found.shape[2:])
        return torch.cat((pairs[:, :, 0], pairs[:, :, 1].flip(1)), dim=1).flatten(1, 2)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over ranks, on every rank; gradients of ranks add up."""
        return self.ranks.moved(x[None], Shard(0), WHOLE, ADDENDS).mean(dim=0)


class Shared(nn.Module):
    """Mixed in before a module's class: where a frame says that positions stand elsewhere, ranks work together.

    Attributes:
        shares: set by `spread`.
    """

    shares: Shares


class Attention(Shared, attention.Attention):
    """This rank's queries, over the keys and values of all positions."""

    def known(self, key: Tensor, value: Tensor, frame: Frame, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole window, gathered at once."""
        if frame.places is None:
            return super().known(key, value, frame, cache)
        both = self.shares.gathered(torch.cat((key, value.to(key.dtype)), dim=2))
        key, value = both.chunk(2, dim=2)
        return key, value


class Trunk(Shared, trunk.Trunk):
    """A trunk whose vectors may stand behind those of other ranks."""

    def before(self, x_BTD: Tensor, frame: Frame, previous_BD: Tensor | None) -> Tensor:
        """The vector before each, of which those before a chunk come from other ranks."""
        if frame.places is None:
            return super().before(x_BTD, frame, previous_BD)
        halves = x_BTD.view(len(x_BTD), 2, -1, x_BTD.shape[2])
        ends = self.shares.gathered(halves[:, :, -1])
        first = torch.cat((torch.zeros_like(ends[:, :1]), ends[:, :-1]), dim=1)[:, list(self.shares.chunks)]
        return torch.cat((first[:, :, None], halves[:, :, :-1]), dim=2).flatten(1, 2)


class Evenness(Routing):
    """Takes up how uneven routers are over whole rows, on every rank; gradients of ranks add up."""

    def __init__(self, shares: Shares) -> None:
        super().__init__()
        self.shares = shares

    def means(self, logits_BTE: Tensor, index_BTK: Tensor) -> Tensor:
        """Shares of a row are of one size, so its mean is that of their means."""
        return self.shares.mean(router_means(logits_BTE, index_BTK))


class Decoder(Shared, decoder.Decoder):
    """A decoder that computes likelihoods of its own positions; asked otherwise, it does all by itself."""

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        *,
        with_log_z: bool = False,
        with_routing: bool = False,
    ) -> Any:
        """As the whole decoder, given whole windows; likelihoods and normalisers are zero at positions of others.

        So they add up over ranks. Without targets, each rank makes all logits.

        Raises:
            ValueError: as the whole decoder, or the window cannot be shared.
        """
        if targets_BT is None:
            return super().forward(
                tokens_BT, None, documents_BT, positions_BT, prefix_BT, with_log_z=with_log_z, with_routing=with_routing
            )
        places_T = self.shares.places(tokens_BT.shape[1], tokens_BT.device)
        routing = Evenness(self.shares) if with_routing else None
        x_BTD = self.stream(tokens_BT, documents_BT, positions_BT, prefix_BT, routing, places_T)
        found = self.answer(x_BTD, targets_BT[:, places_T], with_log_z, routing)
        parts = list(found) if isinstance(found, tuple) else [found]
        for number in range(2 if with_log_z else 1):
            whole = parts[number].new_zeros(targets_BT.shape)
            parts[number] = whole.index_copy(1, places_T, parts[number])
        return tuple(parts) if isinstance(found, tuple) else parts[0]


SHARED: dict[type[nn.Module], type[Shared]] = {
    decoder.Decoder: Decoder,
    trunk.Trunk: Trunk,
    attention.Attention: Attention,
}
"""What a module becomes."""


def spread(net: Net, mesh: DeviceMesh) -> Shares:
    """Share the positions of what a net reads over ranks, in place; parameters stay as they are.

    Every rank must then be given the same micro-batches, whole. What each rank computes of the loss, and its
    gradients, add up to those of one process. `decode`, `step` and `likelihoods` are computed by each rank alone.

    Args:
        net: a decoder.
        mesh: the ranks, in one dimension.

    Returns:
        Which positions are this rank's.

    Raises:
        ConfigError: as `check_context`.
    """
    check_context(net.config, mesh.size())
    shares = Shares(mesh)
    for module in list(net.modules()):
        for whole, kind in SHARED.items():
            if isinstance(module, whole):
                module.__class__ = _mixed(kind, type(module))
                assert isinstance(module, Shared)
                module.shares = shares
    return shares


def _mixed(kind: type[Shared], other: type[nn.Module]) -> type[nn.Module]:
    """The class, or one of it and another that adds to the same module, as those of layers that are cut do."""
    if issubclass(kind, other):
        return kind
    if (kind, other) not in _mixtures:
        _mixtures[kind, other] = type(kind.__name__, (kind, other), {})
    return _mixtures[kind, other]


_mixtures: dict[tuple[type, type], type[nn.Module]] = {}


def places_of(rank: int, ranks: int) -> tuple[int, int]:
    """The chunks of a rank among two for each."""
    return rank, 2 * ranks - 1 - rank
