"""A part of a network: some of its blocks, and what stands at the ends it has, under the names of the whole.

Who holds the other parts, and how the stream comes from one to the next, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from groundup.core.keyed import derive
from groundup.model.experts import Routing
from groundup.model.net import Net
from groundup.model.noise import seed_noise
from groundup.model.trunk import Trunk

if TYPE_CHECKING:
    from groundup.model.frame import Frame
    from groundup.model.options import Transformer as Config

Carried = tuple[Tensor, ...]
"""What goes from one stretch to the next.

First the stream, (B, T, D), with `mixing` stacked on that before the first block, (2, B, T, D); then, if routing is
asked for and there were routers, how uneven each of them is, (R, B, 2).
"""


class Stretch(NamedTuple):
    """Blocks that follow each other.

    Attributes:
        number: of the stretch, in the order in which the stream goes through them.
        layers: of the network.
        first: the embeddings come before it.
        last: the last norm and the head come behind it.
    """

    number: int
    layers: range
    first: bool
    last: bool


class Link(Protocol):
    """Where a part takes the stream from and leaves it."""

    def take(self, stretch: Stretch, shapes: Sequence[tuple[int, ...]]) -> Carried:
        """What arrives at a stretch that is not the first, as tensors of these shapes."""

    def give(self, stretch: Stretch, carried: Carried) -> None:
        """Hand on what a stretch leaves that is not the last."""


class Part(Trunk):
    """Some stretches of a trunk, which it becomes; the others' parameters are let go.

    Called like the whole, it takes the stream from its link for each stretch whose turn it is, and gives it back
    there. Where dropout is on, every stretch draws from a stream of random numbers of its own.

    Args:
        whole: the trunk; not to be used any more.
        config: of the network.
        stretches: those that are kept.

    Attributes:
        turn: the stretches that the next call goes through.
        link: where the stream comes from and goes to.
        gone: shapes of the network's parameters and buffers that others hold, by their names.
    """

    link: Link
    gone: dict[str, torch.Size]

    def __init__(self, whole: Trunk, config: Config, stretches: Sequence[Stretch]) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(whole))  # the same modules under the same names
        self.stretches = self.turn = tuple(stretches)
        self.mixing, self.width, self.routed = config.mixing, config.width, config.expert_layers
        self.noisy = bool(config.dropout or config.attention_dropout)
        self._walk: Callable[..., tuple[Tensor, Tensor | None]] = self._through
        layers = {layer for stretch in stretches for layer in stretch.layers}
        for table in (self.blocks, self.values):
            for name in [name for name in table if int(name) not in layers]:
                del table[name]
        first, last = (any(getattr(stretch, end) for stretch in stretches) for end in ("first", "last"))
        if not first:
            self.project_in = self.positions = self.segments = self.embedding_norm = self.shift = None
        if not last:
            self.norm = self.project_out = None
        if not first and not (last and config.tied):
            del self.embedding

    @property
    def ends(self) -> bool:  # type: ignore[override]
        """Whether what the last call gave is the head's to read."""
        return self.turn[-1].last

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return next(self.parameters()).dtype

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what is computed; taking and giving stay as they are."""
        self._walk = torch.compile(self._through, *args, **kwargs)

    def forward(  # type: ignore[override]
        self,
        tokens_BT: Tensor,
        frame: Frame,
        routing: Routing | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """The stream behind the stretches whose turn it is; arguments as for `Trunk.forward`."""
        x_BTD = tokens_BT
        for stretch in self.turn:
            arrived: Carried = ()
            if not stretch.first:
                B, T = tokens_BT.shape
                arrived = self.link.take(stretch, self.shapes(stretch.layers.start, B, T, routing is not None))
                if self.training and self.noisy:
                    seed_noise(derive(torch.initial_seed(), "stretch", stretch.number), tokens_BT.device)
            x_BTD, uneven_RB2 = self._walk(stretch, tokens_BT, frame, arrived, routing is not None, segments_BT)
            if stretch.last and routing is not None and uneven_RB2 is not None:
                routing.layers.extend(uneven_RB2.unbind())
            elif not stretch.last:
                left = x_BTD.to(self.dtype).contiguous()
                self.link.give(stretch, (left,) if uneven_RB2 is None else (left, uneven_RB2))
        if not self.ends:
            x_BTD = x_BTD[0] if self.mixing else x_BTD
            if routing is not None:  # of the shape that the last part's has
                routing.append(x_BTD.new_zeros(len(tokens_BT), 2, dtype=self._wide))
        return x_BTD

    def shapes(self, layer: int, rows: int, length: int, routed: bool) -> list[tuple[int, ...]]:
        """Shapes of what goes into the block of this number, from the block before.

        Args:
            layer: the block.
            rows: of a micro-batch.
            length: its positions.
            routed: whether routing is asked for.
        """
        found: list[tuple[int, ...]] = [(*((2,) if self.mixing else ()), rows, length, self.width)]
        routers = sum(one < layer for one in self.routed) if routed else 0
        return [*found, (routers, rows, 2)] if routers else found

    def dtypes(self) -> Iterator[torch.dtype]:
        """Dtypes of what is carried, in its order."""
        yield self.dtype
        yield self._wide

    def modules_of(self, stretch: Stretch, head: nn.Module) -> Iterator[nn.Module]:
        """The modules whose parameters a stretch uses.

        Args:
            stretch: one of those it holds.
            head: of the network.
        """
        for layer in map(str, stretch.layers):
            yield self.blocks[layer]
            if layer in self.values:
                yield self.values[layer]
        shared = [self.buckets]
        begin = [self.project_in, self.positions, self.segments, self.embedding_norm, self.shift]
        end = [self.norm, self.project_out, head]
        ends = [getattr(self, "embedding", None)] if stretch.first or stretch.last else []
        for module in [*shared, *ends, *(begin if stretch.first else []), *(end if stretch.last else [])]:
            if module is not None:
                yield module

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def _through(
        self,
        stretch: Stretch,
        tokens_BT: Tensor,
        frame: Frame,
        arrived: Carried,
        routed: bool,
        segments_BT: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The stream behind a stretch as it is carried, or as the head reads it, and how uneven routers were."""
        if stretch.first:
            x_BTD = first_BTD = self.begin(tokens_BT, frame, segments_BT=segments_BT)
        elif self.mixing:
            x_BTD, first_BTD = arrived[0].unbind()
        else:
            x_BTD = first_BTD = arrived[0]
        routing = Routing(arrived[1].unbind() if len(arrived) > 1 else ())
        names = map(str, stretch.layers)
        x_BTD = self.through(names, x_BTD, first_BTD, tokens_BT, frame, routing=routing if routed else None)
        uneven_RB2 = torch.stack(routing.layers) if routing.layers else None
        if stretch.last:
            return self.end(x_BTD), uneven_RB2
        return torch.stack((x_BTD, first_BTD)) if self.mixing else x_BTD, uneven_RB2


def cut(net: Net, stretches: Sequence[Stretch]) -> None:
    """Let go of all of a network but some stretches; it is then called as before, once its part has a link.

    A network that hands its stream on answers zeros of the right shapes: as if it were certain of all targets.

    Args:
        net: a decoder or an encoder.
        stretches: those that are kept; with tied embeddings the matrix stays at both ends.
    """
    before = net.state_dict(keep_vars=True)
    net.trunk = part = Part(net.trunk, net.config, stretches)
    if not any(stretch.last for stretch in stretches):
        net.head.register_parameter("weight", None)
        net.head.register_parameter("bias", None)
        net.head.transform = net.head.transform_norm = None
    kept = net.state_dict(keep_vars=True)
    part.gone = {name: tensor.shape for name, tensor in before.items() if name not in kept}
