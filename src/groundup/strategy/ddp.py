"""A copy of the model per process, gradients summed while backward goes on; it never starts a process itself."""

# no `from __future__ import annotations`: DDP checks the hook's annotations, which must be the objects themselves

from contextlib import AbstractContextManager
from datetime import timedelta

import torch
from lightning.pytorch.overrides.distributed import prepare_for_backward
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from groundup.strategy.environment import Ranks
from groundup.strategy.meeting import leave_at_once, meet
from groundup.strategy.stepping import Stepping


class DDP(Stepping, DDPStrategy):
    """Lightning's DDP for manual optimization with several backward passes in one training step.

    Gradients end as the sum over ranks, not the mean, since losses are already divided by the global count. They are
    views of the buckets that travel. Not a static graph: torch would then hold back all communication of the first
    step until its end and expect the same number of backward passes in each.

    Args:
        devices: of the processes on this machine, by local rank.
        timeout_minutes: how long a collective may wait.
        bucket_megabytes: size of the parcels in which gradients travel.
        travel: dtype in which they do, and are summed; None: their own.
    """

    def __init__(
        self,
        devices: list[torch.device],
        timeout_minutes: float,
        bucket_megabytes: float,
        travel: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            parallel_devices=devices,
            cluster_environment=Ranks(),
            process_group_backend="nccl" if devices[0].type == "cuda" else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
            forward_sync_buffers=False,
            bucket_cap_mb=bucket_megabytes,
        )
        self.travel = travel

    def _configure_launcher(self) -> None:
        """Leave launching to torchrun: Lightning's own launcher would run the script again, under Hydra too."""

    def setup_distributed(self) -> None:
        """Meet the other processes first: Lightning takes a group that is there."""
        assert self._timeout is not None
        meet(self.root_device, self._timeout)
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Wrap the module, and settle how gradients are parcelled before the first step."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, self._sum)
        _settle_buckets(self.model)

    def _register_ddp_hooks(self) -> None:
        """Leave hooks to `configure_ddp`: Lightning registers its own on GPUs alone."""

    def quiet(self) -> AbstractContextManager[None]:
        """A context in which gradients are added up here and not yet over ranks."""
        return self.block_backward_sync()

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank and on the tensor's device; the argument stays as it is."""
        total = tensor.detach().to(self.root_device, copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def _sum(self, state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Add a bucket over all ranks; without a hook DDP would also divide by their number."""
        del state
        if bucket.is_last():
            super().computed()
        gradients = bucket.buffer()
        parcel = gradients.to(self.travel or gradients.dtype)  # itself, if that is what it is
        work = distributed.all_reduce(parcel, async_op=True)
        total: torch.futures.Future[torch.Tensor] = work.get_future().then(
            lambda future: gradients.copy_(future.value()[0])
        )
        return total

    def computed(self) -> None:
        """Nothing: the last bucket told it, before backward waited for the others."""

    def on_exception(self, exception: BaseException) -> None:
        """Lose no time over groups when this rank fails."""
        leave_at_once(exception)
        super().on_exception(exception)

    def teardown(self) -> None:
        """Unwrap the module first, lest Lightning advise a static graph."""
        self.model = self.lightning_module
        super().teardown()


def _settle_buckets(model: DistributedDataParallel) -> None:
    """Bring DDP's one rebuilding of its buckets forward, from after the first step to before it.

    DDP parcels gradients anew once it has seen the order in which they arrive. A ring adds an element's ranks in an
    order that depends on its place in the parcel, so the first step after a restart would round differently from the
    same step of a run that never stopped. A backward pass of zeros, parameter by parameter from the last to
    the first, fixes the order for good.
    """
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        zeros = [parameter.sum() * 0 for parameter in model.parameters() if parameter.requires_grad]
        nothing = torch.stack([zero.float() for zero in zeros]).sum()
    prepare_for_backward(model, nothing)
    torch.autograd.backward(nothing)
    model.reducer._rebuild_buckets()
    model.zero_grad(set_to_none=True)
