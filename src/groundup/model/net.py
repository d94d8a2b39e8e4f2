"""What all networks are: a trunk and a head, begun together; how a text comes to them is their kinds' business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from groundup.model.experts import Routing
from groundup.model.head import IGNORED, Head
from groundup.model.initialise import initialise, rate_scales
from groundup.model.trunk import Trunk

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


class Net(nn.Module):
    """Base of all networks.

    Parameters have plain names, compiled or not (`trunk.embedding.weight`, `trunk.blocks.0.attention.query.weight`,
    `head.weight`); tied networks have no `head.weight`.

    Attributes:
        shapes: of all parameters in their order, also of those that a rank may have let go of.

    Raises:
        ConfigError: context or vocabulary is still open.
    """

    trunk: Trunk
    head: Head

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Any = config
        self.vocabulary, self.context = config.closed()
        place = torch.get_default_device()
        with torch.device("meta"):  # torch's own initialisation would cost time and random numbers
            self.put_together(config)
        self.shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        if place.type != "meta":
            self.to_empty(device=place)
            self.begin()

    def begin(self) -> None:
        """Draw every weight from torch's generator; one built on the meta device needs this once it has memory."""
        initialise(self, self.config)

    def put_together(self, config: Config) -> None:
        """Make the parts, without memory."""
        self.trunk = Trunk(config)
        self.head = Head(config)

    def compile_(self, *, blocks: bool = False, **options: Any) -> None:
        """Compile trunks and head in place, apart; names of parameters stay. `options` go to `torch.compile`.

        Each shape of input gets graphs of its own, unless `options` say otherwise.

        Args:
            blocks: compile each block of a trunk instead, but for the hooks around it, which may gather its weights.
        """
        options.setdefault("dynamic", False)
        for part in self.children():
            if isinstance(part, Trunk) and blocks:
                for block in part.blocks.values():
                    cast(Any, block).forward = torch.compile(block.forward, **options)
            elif isinstance(part, Trunk):
                part.compile(**options)
        self.head.compile_(**options)

    def rate_scales(self) -> dict[str, float]:
        """By what rates of parameters are multiplied, by name; those not named by 1 (muP)."""
        return rate_scales(self, self.config)

    @property
    def routes(self) -> bool:
        """Whether there are experts, so that `with_routing` says something."""
        return bool(self.config.expert_layers)

    @property
    def reads_source(self) -> bool:
        """Whether text is written to a source that an encoder reads, not as what goes on from it."""
        return False

    def answer(self, x_BTD: Tensor, targets_BT: Tensor | None, with_log_z: bool, routing: Routing | None) -> Any:
        """What `forward` of every kind returns.

        Returns:
            Without targets, logits (B, T, V). With targets, negative log-likelihoods in nats, (B, T) fp32, zero
            where there is no target; with `with_log_z` or routing a tuple of these, log Z of every position,
            (B, T) fp32, and the routers' mean for each row, (B, 2) fp32, as far as asked for.
        """
        if targets_BT is None:
            return self.head(x_BTD, tied=self._tied)
        if self.trunk.ends:
            nll_BT, log_z_BT = self.head(x_BTD, targets_BT, tied=self._tied)
        else:  # another part of the network answers; what is said here must only have the right shape
            nll_BT = log_z_BT = x_BTD.new_zeros(targets_BT.shape, dtype=torch.promote_types(x_BTD.dtype, torch.float32))
        found = [nll_BT, *([log_z_BT] if with_log_z else [])]
        if routing is not None and routing.layers:
            found.append(torch.stack(routing.layers).mean(dim=0))
        return tuple(found) if len(found) > 1 else nll_BT

    def expect_room(self, tokens_BT: Tensor) -> None:
        """Check a window's length.

        Raises:
            ValueError: it is longer than the context.
        """
        if tokens_BT.shape[1] > self.context:
            raise ValueError(f"a window of {tokens_BT.shape[1]} positions in a network for {self.context}")

    @property
    def _tied(self) -> Tensor | None:
        return self.trunk.embedding.weight if self.config.tied else None

    @property
    def _dtype(self) -> torch.dtype:
        return self.trunk.dtype


def targeted(targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of each row that have targets.

    Returns:
        wanted_BQ: these positions in their order, and others where a row has fewer than the most.
        has_BQ: which of them have targets.
    """
    has_BT = targets_BT != IGNORED
    most = max(1, int(has_BT.sum(dim=1).max()))
    wanted_BQ = (~has_BT).int().argsort(dim=1, stable=True)[:, :most]
    return wanted_BQ, has_BT.gather(1, wanted_BQ)
