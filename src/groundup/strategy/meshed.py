"""What the options of all strategies that split nets over ranks have in common, and what cannot be split; no torch.

All are one strategy on one grid of ranks (Narayanan et al. 2021, PTD-P).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import option
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid, global_micro_batches
from groundup.strategy.config import TRAVEL, Layout, devices_here, torchrun
from groundup.strategy.cutting import check as check_cut
from groundup.strategy.cutting import check_context, check_experts

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v")


@dataclasses.dataclass(kw_only=True)
class Meshed(Layout):
    """What the strategies here have in common."""

    kind: str = dataclasses.field(init=False)

    timeout_minutes: float = option(
        30.0, "a collective that waits longer than this ends the run", above=0, identity=False
    )
    travel: str = option("weights", TRAVEL, choices=("weights", "bf16"), identity=False)

    def sizes(self, world: int) -> tuple[int, int]:
        """How many ranks lie along the pipeline, and how many share each layer."""
        del world
        return 1, 1

    def along_context(self, world: int) -> int:
        """Over how many ranks the positions of each sample are spread."""
        del world
        return 1

    def among_experts(self) -> int:
        """To how many ranks the experts of each layer are shared out."""
        return 1

    def grid(self, world: int) -> Grid:
        """How `world` ranks are laid out; those that are left over read other samples.

        Raises:
            ConfigError: they cannot be.
        """
        (pipeline, tensor), context = self.sizes(world), self.along_context(world)
        each = pipeline * context * tensor
        if world % each:
            raise ConfigError(
                f"strategy={self.kind}",
                f"needs a multiple of {pipeline} x {context} x {tensor} processes, pipeline x context x tensor, and "
                f"there are {world}",
                f"run: {torchrun(each, self.kind)}",
            )
        return Grid(pipeline=pipeline, data=world // each, context=context, tensor=tensor, experts=self.among_experts())

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a network or a batch that cannot be laid out so; see `Layout.check`."""
        grid = self.grid(world)
        if grid.tensor > 1 or grid.context > 1:
            if data.kind == "examples":
                raise ConfigError(
                    f"strategy={self.kind}",
                    "has no plan for the head of objective=finetune",
                    "set strategy=ddp or fsdp",
                )
            check_cut(model, grid.tensor)
            check_context(model, grid.context, data.context)
        if grid.context > 1 and grid.pipeline > 1:
            raise ConfigError(
                f"strategy.context={grid.context}",
                f"has no plan for a pipeline of {grid.pipeline} ranks",
                "set one of them to 1",
            )

    def check_optimizer(self, kind: str) -> None:
        """Adafactor's means run over whole matrices.

        Raises:
            ConfigError: it is Adafactor, and matrices are cut.
        """
        if kind == "adafactor" and self.cuts:
            raise ConfigError(
                "optimizer=adafactor",
                f"takes means over whole matrices, which strategy={self.kind} cuts",
                "choose muon, adamw, lion or sgd, or strategy=ddp",
            )

    @property
    def cuts(self) -> bool:
        """Whether a rank may have a part of a matrix."""
        return True

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this process among those torchrun started.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: as `devices_here` and `grid`.
        """
        here = devices_here(self.kind, accelerator, devices)
        grid = self.grid(ranks.world())
        from groundup.strategy import mesh, pipeline

        kind: Any = pipeline.Pipeline if grid.pipeline > 1 else mesh.Mesh
        made: mesh.Mesh = kind(here, grid, timeout_minutes=self.timeout_minutes, **self.further())
        made.recompute = self.recompute
        return made

    def further(self) -> dict[str, Any]:
        """Further arguments of the strategy."""
        import torch

        return {"sharded": False, "travel": torch.bfloat16 if self.travel == "bf16" else None}


@dataclasses.dataclass(kw_only=True)
class Sharding(Meshed):
    """How weights are cut over the ranks that read different samples, and gathered where they compute."""

    replicas: int = option(
        1,
        "copies of the model, each cut over an equal share of the processes (hybrid sharding); it divides their number",
        at_least=1,
        identity=False,
    )
    reshard: bool = option(
        True,
        "forget a block's gathered weights behind its forward pass, and gather them again for the backward one "
        "(ZeRO-3); false: keep them (ZeRO-2)",
        identity=False,
    )
    sum_every: bool = option(
        False,
        "sum gradients behind each micro-batch and keep parts alone; false: whole ones until the step's last",
        identity=False,
    )
    gather: str = option(
        "weights",
        "numbers in which weights are gathered and then compute: those of the weights as kept, or bf16",
        choices=("weights", "bf16"),
        identity=False,
    )
    offload: bool = option(
        False, "keep weights, gradients and optimizer state in the host's memory, and update them there", identity=False
    )

    def check(self, world: int, model: Any, data: Any) -> None:
        """See that the copies share the processes out evenly, too.

        Raises:
            ConfigError: they do not.
        """
        super().check(world, model, data)
        grid = self.grid(world)
        among = grid.data * grid.context
        if among % self.replicas:
            raise ConfigError(
                f"strategy.replicas={self.replicas}",
                f"does not divide the {among} processes that see different tokens",
                f"choose from {', '.join(str(n) for n in range(1, among + 1) if among % n == 0)}",
            )

    def further(self) -> dict[str, Any]:
        """Further arguments of the strategy."""
        import torch

        return {
            **super().further(),
            "sharded": True,
            "replicas": self.replicas,
            "reshard": self.reshard,
            "sum_every": self.sum_every,
            "gather": torch.bfloat16 if self.gather == "bf16" else None,
            "offload": self.offload,
        }


@dataclasses.dataclass(kw_only=True)
class Routed(Sharding):
    """How experts are shared out to ranks that see different tokens, which then travel to them."""

    experts: int = option(
        1,
        "neighbours, of the processes that read different samples, to which the experts of each layer are shared out "
        "whole; tokens travel to them and back (GShard, Lepikhin et al. 2020); it divides model.experts",
        at_least=1,
        identity=False,
    )

    def among_experts(self) -> int:
        """To how many ranks the experts of each layer are shared out."""
        return self.experts

    def check(self, world: int, model: Any, data: Any) -> None:
        """See that experts and processes divide, too.

        Raises:
            ConfigError: they do not, or this goes with something else for which there is no plan.
        """
        super().check(world, model, data)
        grid = self.grid(world)
        check_experts(model, grid.experts, grid.data * grid.context // self.replicas)
        if grid.experts > 1 and grid.tensor > 1:
            raise ConfigError(
                f"strategy.experts={grid.experts}",
                f"has no plan for strategy.tensor={grid.tensor}, which cuts each expert",
                "set one of them to 1",
            )


@dataclasses.dataclass(kw_only=True)
class Staged(Meshed):
    """How micro-batches go through the layers of several ranks."""

    schedule: str = option(
        "1f1b",
        "which stage works when: all forward, then all backward (gpipe: Huang et al. 2019), backward as soon as it can "
        "(1f1b: Narayanan et al. 2019), that with several stages a process (interleaved: Narayanan et al. 2021), or "
        "with the weights' gradients made where a stage would wait (zero_bubble, and zero_bubble_v, whose stages go "
        "back the way they came: Qi et al. 2024)",
        choices=SCHEDULES,
        identity=False,
    )
    stages_per_rank: int | None = option(
        None,
        "stretches of layers of a process; null: 2 with interleaved and zero_bubble_v, else 1",
        at_least=1,
        identity=False,
    )

    def __post_init__(self) -> None:
        least, most = {"gpipe": (1, 1), "1f1b": (1, 1), "interleaved": (2, None), "zero_bubble_v": (2, 2)}.get(
            self.schedule, (1, None)
        )
        if self.each < least or (most is not None and self.each > most):
            allowed = f"{least}" if most == least else f"at least {least}"
            raise ConfigError(
                f"stages_per_rank={self.stages_per_rank}",
                f"does not go with schedule={self.schedule}",
                f"set it to {allowed}, or leave it null",
            )

    @property
    def each(self) -> int:
        """Stages of a process."""
        return self.stages_per_rank or (2 if self.schedule in ("interleaved", "zero_bubble_v") else 1)

    @property
    def needs_rows(self) -> str | None:
        """Why `data.micro_batch` must be a number."""
        return "its schedule is made for a number of micro-batches"

    @property
    def splits_backward(self) -> bool:
        """Whether gradients of inputs and of weights are computed apart, which a compiled network does not allow."""
        return self.schedule.startswith("zero_bubble")

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a network or a batch that cannot be laid out so; see `Layout.check`."""
        super().check(world, model, data)
        grid, where = self.grid(world), f"strategy={self.kind}"
        if grid.pipeline == 1:
            return
        kind = getattr(model, "kind", None)
        if kind not in ("decoder", "encoder"):
            raise ConfigError(where, f"has no plan for the layers of model.kind={kind}", "set strategy=fsdp")
        if data.kind == "examples":
            raise ConfigError(where, "has no plan for the head of objective=finetune", "set strategy=fsdp")
        if self.splits_backward and model.positions == "t5":
            raise ConfigError(
                f"strategy.schedule={self.schedule}",
                "takes gradients apart layer by layer, and with model.positions=t5 all layers share a table",
                "set strategy.schedule=1f1b",
            )
        if self.splits_backward and grid.experts > 1:
            raise ConfigError(
                f"strategy.experts={grid.experts}",
                f"has no plan for strategy.schedule={self.schedule}, which takes gradients apart",
                "set strategy.schedule=1f1b",
            )
        stages = grid.pipeline * self.each
        if model.layers % stages:
            raise ConfigError(
                f"model.layers={model.layers}",
                f"cannot be shared out equally to {stages} stages, {self.each} on each of {grid.pipeline} ranks",
                "change model.layers, the ranks of the pipeline or strategy.stages_per_rank",
            )
        count = -(-global_micro_batches(data.samples, data.rows) // grid.data)
        rounds = max(1, count // grid.pipeline)
        if self.schedule in ("interleaved", "zero_bubble") and count % rounds:
            raise ConfigError(
                f"data.micro_batch={data.rows}",
                f"makes {count} micro-batches, and strategy.schedule={self.schedule} goes through them in {rounds} "
                "equal rounds",
                f"choose it so that they are a multiple of {grid.pipeline}, or strategy.schedule=1f1b",
            )

    def further(self) -> dict[str, Any]:
        """Further arguments of the strategy."""
        return {**super().further(), "schedule": self.schedule, "each": self.each}


@dataclasses.dataclass(kw_only=True)
class Shared(Meshed):
    """How each layer is shared by ranks."""

    sequence: bool = option(
        True,
        "share what stands between the matrices by positions (sequence parallelism: Korthikanti et al. 2022)",
        identity=False,
    )

    def further(self) -> dict[str, Any]:
        """Further arguments of the strategy."""
        return {**super().further(), "sequence": self.sequence}
