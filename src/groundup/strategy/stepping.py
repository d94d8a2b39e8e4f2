"""What an objective asks of every strategy beside Lightning's own: the plain versions, right without sharding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from groundup.model.parts import own
from groundup.strategy.recompute import recompute_blocks

T = TypeVar("T")


class Stepping(Strategy):
    """Gradients of one optimizer step, and sums and norms over all that holds it.

    Mixed into a Lightning strategy. Parameters are whole on every rank here; a layout that shards them overrides
    `gradient_norm`, and one that schedules micro-batches itself overrides `forward_backward`.

    Attributes:
        on_computed: called in every step at the point from which this rank only waits for others; None: nobody asks.
        recompute: what of a block's forward pass is computed again in the backward pass (see `strategy.recompute`).
        whole: every rank has all of every net, so that one can ask it alone.
        apart: while `quiet`, no rank waits for another in a micro-batch, so that one may fail alone.
    """

    on_computed: Callable[[], None] | None = None
    recompute: str = "none"
    whole: bool = True
    apart: bool = True

    @property
    def share(self) -> tuple[int, int]:
        """Which of how many parts of some work is this rank's; ranks with the same part can only do it together."""
        mine: Any = self
        return mine.global_rank, mine.world_size

    def spread(self, nets: nn.ModuleDict) -> None:
        """Lay freshly built nets out over the ranks, in place, before the optimizer takes their parameters.

        Nets come without memory, on the meta device, but for those that cannot; they leave with it, and without values.
        Names of parameters stay; of those that are split, each is a DTensor.
        """
        for net in nets.values():
            self.split(net)  # may change the classes of blocks
            recompute_blocks(net, self.recompute)
            self.settle(net)

    def split(self, net: nn.Module) -> None:
        """Split one net over the ranks. Here it stays whole."""

    def settle(self, net: nn.Module) -> None:
        """Give a net its memory on this rank's device."""
        if any(parameter.is_meta for parameter in net.parameters()):
            net.to_empty(device=self.root_device)
        else:
            net.to(self.root_device)

    def compile(self, nets: nn.ModuleDict) -> None:
        """Compile the nets in place."""
        for net in nets.values():
            cast(Any, net).compile_()

    @property
    def elsewhere(self) -> Mapping[str, torch.Size]:
        """Shapes of the nets' parameters and buffers that other ranks hold and this one does not, by their names."""
        return {}

    def forward_backward(self, micro_batches: Sequence[T], loss: Callable[[int, T], Tensor]) -> None:
        """Add the gradient of the summed losses, over all micro-batches of all ranks, to every `parameter.grad`.

        Args:
            micro_batches: this rank's; every rank has equally many.
            loss: given a micro-batch's number and the micro-batch, a scalar already divided by the step's global
                count of targets.

        Raises:
            ValueError: there is no micro-batch, so that other ranks would wait for ever.
        """
        if not micro_batches:
            raise ValueError("a step has at least one micro-batch on every rank")
        for number, micro_batch in enumerate(micro_batches):
            with self.quiet() if number < len(micro_batches) - 1 else nullcontext():
                self.backward(loss(number, micro_batch), None)
        self.computed()

    def computed(self) -> None:
        """Tell who asks that this rank's gradients are made. Who sends them while backward goes on tells it earlier."""
        if self.on_computed is not None:
            self.on_computed()

    def quiet(self) -> AbstractContextManager[None]:
        """A context in which gradients are added up here and not yet over ranks."""
        return nullcontext()

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank and on the tensor's device; the argument stays as it is."""
        return tensor

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The 2-norm of the whole gradient as a scalar on its device, without waiting for the device.

        At least fp32; parameters without a gradient count as zero.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.root_device)
        double = any(gradient.dtype == torch.float64 for gradient in gradients)
        norms = torch._foreach_norm(gradients, 2.0, dtype=torch.float64 if double else torch.float32)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def scale_gradients(self, parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
        """Multiply the whole gradient by a scalar."""
        gradients = [own(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor.to(gradients[0].device))
