"""Nets trained by DeepSpeed's ZeRO, on groundup's steps; the form of a checkpoint is not known here.

The one place, beside `zero_state`, where deepspeed is imported.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import deepspeed
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn

from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.strategy import zero_state
from groundup.strategy.environment import Ranks
from groundup.strategy.meeting import leave_at_once, meet
from groundup.strategy.stepping import Stepping

T = TypeVar("T")


class Calls(nn.Module):
    """All nets as the one module that DeepSpeed wraps: given a function, it calls it, and sees what nets that asks."""

    def __init__(self, nets: nn.ModuleDict) -> None:
        super().__init__()
        self.nets = nets

    def forward(self, call: Callable[..., T], *arguments: Any) -> T:
        """What the function gives for the arguments."""
        return call(*arguments)


class Steps(torch.optim.Optimizer):
    """The run's optimizer as objectives move it, by a step of DeepSpeed's around it.

    Args:
        zero: DeepSpeed's optimizer, which is none of torch's.
    """

    def __init__(self, zero: Any) -> None:
        self.zero = zero  # groups and state are those of the optimizer inside

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Of the optimizer inside, with its options, and rows of numbers as parameters."""
        return cast("list[dict[str, Any]]", self.zero.optimizer.param_groups)

    @property
    def state(self) -> Any:  # type: ignore[override]
        """Of the optimizer inside, by rows."""
        return self.zero.optimizer.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every weight along the gradient, and bring what moved to all ranks."""
        assert closure is None
        self.zero.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient."""
        self.zero.zero_grad(set_to_none=set_to_none)


class Zero(Stepping, DDPStrategy):
    """ZeRO, stages 1 to 3 (Rajbhandari et al. 2020), and what it keeps on the host (Rajbhandari et al. 2021).

    The optimizer is the run's own, which DeepSpeed shows this rank's part of the joined parameters of each group.
    Gradients end as the sum over ranks, not the mean, since losses are already divided by the global count. Nets are
    begun before they are cut, so that they begin bitwise as in one process; with stage 3 on the host, whole in
    every process.

    Args:
        devices: of the processes on this machine, by local rank.
        stage: 1 cuts optimizer state, 2 gradients too, 3 weights too.
        offload: "optimizer" keeps its state on the host, "weights" these too, "none" nothing.
        bucket: numbers that travel together.
        whole_below: parameters of at most so many numbers stay whole in stage 3.
        timeout_minutes: how long a collective may wait.
    """

    def __init__(
        self,
        devices: list[torch.device],
        *,
        stage: int,
        offload: str,
        bucket: int,
        whole_below: int,
        timeout_minutes: float,
    ) -> None:
        super().__init__(
            parallel_devices=devices,
            cluster_environment=Ranks(),
            process_group_backend="nccl" if devices[0].type == "cuda" else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.stage, self.whole = stage, stage < 3
        host = {"device": "cpu", "pin_memory": devices[0].type == "cuda"}
        cut: dict[str, Any] = {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket + bucket % 2,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": whole_below,
            # it would replace torch's own linear for good, in nets of other strategies too
            "memory_efficient_linear": False,
        }
        cut |= {"offload_optimizer": host} if offload != "none" else {}
        cut |= {"offload_param": host} if offload == "weights" else {}
        self.options = {
            "train_micro_batch_size_per_gpu": 1,  # what a micro-batch is, objectives decide
            "zero_optimization": cut,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        self.engine: Any = None

    def _configure_launcher(self) -> None:
        """Leave launching to torchrun."""

    # Lightning's hooks

    def setup_distributed(self) -> None:
        """Meet the other processes first: Lightning and DeepSpeed take a group that is there."""
        assert self._timeout is not None
        meet(self.root_device, self._timeout)
        super().setup_distributed()
        os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank()))  # which DeepSpeed reads, whoever launched it
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message=".*all_gather_into_tensor. is deprecated", category=FutureWarning)
        # On CPUs it would first compile sums of its own through shared memory; gloo has some.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=self.process_group_backend, dist_init_required=False)

    def on_exception(self, exception: BaseException) -> None:
        """Lose no time over groups when this rank fails."""
        leave_at_once(exception)
        super().on_exception(exception)

    def setup(self, trainer: Trainer) -> None:
        """Make the optimizer over whole parameters, whose shapes it reads, and hand both to DeepSpeed."""
        assert self.accelerator is not None and self.lightning_module is not None
        self.accelerator.setup(trainer)
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits:
            self.setup_optimizers(trainer)
        module: Any = self.lightning_module
        if self.stage == 3:
            calls = Calls(module.nets)
            deepspeed.zero.Init(module=calls, config_dict_or_path=self.options, dtype=torch.float32)
            for buffer in calls.buffers():
                buffer.data = buffer.data.to(self.root_device)
            module._device = self.root_device
        else:
            module.to(self.root_device)
        if fits or self.stage == 3:
            client = self.optimizers[0] if fits else None
            self.engine, *_ = deepspeed.initialize(
                model=Calls(module.nets), optimizer=client, config=self.options, dist_init_required=False
            )
            self.optimizers = [Steps(self.engine.optimizer)] if fits else []
        self.setup_precision_plugin()

    def teardown(self) -> None:
        """Take DeepSpeed's hooks off the nets; another Trainer may follow in this process."""
        self.optimizers = []
        if self.engine is not None:
            self.engine.destroy()
            self.engine = None
        super().teardown()

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Ask nets through DeepSpeed, which gathers what is cut."""
        step = super().validation_step
        return self.engine(lambda: step(*args, **kwargs)) if self.stage == 3 else step(*args, **kwargs)

    # Nets

    def settle(self, net: nn.Module) -> None:
        """Give a net its memory, on the host where it is to be cut.

        Raises:
            ConfigError: it is in float64, which DeepSpeed does not sum.
        """
        if any(parameter.dtype == torch.float64 for parameter in net.parameters()):
            raise ConfigError(
                "trainer.precision=fp64", "is none that strategy=deepspeed computes in", "set fp32, or strategy=fsdp"
            )
        if self.stage < 3:
            super().settle(net)
        elif any(parameter.is_meta for parameter in net.parameters()):
            net.to_empty(device="cpu")

    # Steps

    def forward_backward(self, micro_batches: Sequence[T], loss: Callable[[int, T], Tensor]) -> None:
        """Add the gradient over all ranks, to parts that DeepSpeed keeps; see `Stepping`."""
        if not micro_batches:
            raise ValueError("a step has at least one micro-batch on every rank")
        self.engine.optimizer.override_loss_scale(1.0)
        for number, micro_batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            self.engine.set_gradient_accumulation_boundary(last)
            mean = self.engine(loss, number, micro_batch)
            if last:
                self.computed()
            # DeepSpeed takes the mean over ranks, in every stage
            self.engine.backward(mean * self.world_size, scale_wrt_gas=False)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank and on the tensor's device; the argument stays as it is."""
        total = tensor.detach().to(self.root_device, copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The 2-norm of the whole gradient, of whose parts each is on one rank; NaN where it is not finite."""
        del parameters
        zero = self.engine.optimizer
        if self.stage == 3:
            norms = [norm.to(self.root_device) for norm in map(torch.as_tensor, zero._get_norm_groups())]
            signs = torch.stack(norms).min()
            norm = torch.linalg.vector_norm(torch.stack(norms))
        else:
            norm = signs = torch.as_tensor(zero.scaled_global_norm(), device=self.root_device)
        return torch.where(signs < 0, torch.nan, norm)  # DeepSpeed's -1 says that it is not finite

    def scale_gradients(self, parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
        """Have DeepSpeed multiply the gradient when it steps: it divides by the loss scale."""
        del parameters
        self.engine.optimizer.override_loss_scale(1 / float(factor))

    # What a checkpoint holds

    @property
    def elsewhere(self) -> Mapping[str, torch.Size]:
        """Shapes of the weights that other ranks keep for a checkpoint and this one does not."""
        return zero_state.elsewhere(self._nets)

    def gathered(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This rank's share of the weights, and of the optimizer's state, by names of whole parameters."""
        return zero_state.net_tensors(self._nets), zero_state.optimizer_tensors(self._nets, self.engine.optimizer)

    def gathered_room(self, kinds: zero_state.Kinds) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors to fill with this rank's share; `kinds` are those of the optimizer's tensors."""
        return zero_state.net_room(self._nets), zero_state.optimizer_room(self._nets, kinds)

    def scatter(self, nets: dict[str, Tensor], optimizer: dict[str, Tensor], kinds: zero_state.Kinds) -> None:
        """Go on from what `gathered_room` gave, once it is filled."""
        zero_state.set_all(self._nets, self.engine.optimizer, nets, optimizer, kinds)

    @property
    def _nets(self) -> nn.Module:
        return cast(nn.Module, cast(Any, self.lightning_module).nets)
