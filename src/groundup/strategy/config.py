"""Options of the strategies and the checks of where they run; importing this imports neither torch nor lightning."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import from_dict, group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid, global_micro_batches

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy

group("strategy", "how the model and the work are spread over devices")


class Layout:
    """What every strategy answers before anything is built; here for those that only copy the nets."""

    whole = True
    """Whether each rank holds whole nets, so that whoever watches one can ask them."""

    def grid(self, world: int) -> Grid:
        """How `world` ranks are laid out."""
        return Grid(data=world)

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a network or a batch that cannot be laid out so.

        Args:
            world: ranks.
            model: the network's config.
            data: the data's; `samples` make a step, `rows` a micro-batch.

        Raises:
            ConfigError: with the numbers that do not fit.
        """


@schema("strategy", "auto")
class Auto(Layout):
    """ddp where torchrun started several processes, else single."""

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy that fits how this process was launched.

        Args:
            accelerator: "cpu", "cuda" or "mps".
            devices: how many on this machine.

        Raises:
            ConfigError: as `DDP.build` and `Single.build`.
        """
        kind = "ddp" if ranks.world() > 1 or devices > 1 else "single"
        strategy: Strategy = from_dict("strategy", {"kind": kind}).build(accelerator, devices)
        return strategy


@schema("strategy", "single")
class Single(Layout):
    """One process on one device."""

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy on this process's one device.

        Args:
            accelerator: "cpu", "cuda" or "mps".
            devices: must be 1.

        Raises:
            ConfigError: several devices are wanted, or this is one of several processes.
        """
        if ranks.world() > 1:
            raise ConfigError(
                "strategy=single",
                f"this is one of WORLD_SIZE={ranks.world()} processes, and each would train alone",
                "use strategy=ddp, or start one process without torchrun",
            )
        if devices > 1:
            raise ConfigError("strategy=single", f"uses one device, not {devices}", f"use {torchrun(devices)}")
        import torch

        from groundup.strategy import single

        return single.Single(torch.device(accelerator, 0) if accelerator == "cuda" else torch.device(accelerator))


@schema("strategy", "ddp")
class DDP(Layout):
    """A copy of the model per process, gradients summed (Li et al. 2020, PyTorch Distributed); started by torchrun."""

    timeout_minutes: float = option(
        30.0, "a collective that waits longer than this ends the run", above=0, identity=False
    )
    bucket_megabytes: float = option(
        25.0, "gradients travel in parcels of this size while backward goes on", above=0, identity=False
    )

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this process among those torchrun started; one alone needs no torchrun.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: not launched by torchrun, too few devices, or an accelerator without collectives.
        """
        from groundup.strategy import ddp

        return ddp.DDP(
            local_devices("ddp", accelerator, devices),
            timeout_minutes=self.timeout_minutes,
            bucket_megabytes=self.bucket_megabytes,
        )


SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v")


@schema("strategy", "pipeline")
class Pipeline(Layout):
    """A stretch of the layers per process, micro-batches after each other through all of them; started by torchrun.

    Each process holds the weights, gradients and optimizer state of its own layers alone.
    """

    ranks: int | None = option(
        None,
        "processes over which the layers are spread; others hold copies and read other samples; null: all",
        at_least=2,
        identity=False,
    )
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
    timeout_minutes: float = option(
        30.0, "what waits longer than this for another process ends the run", above=0, identity=False
    )
    bucket_megabytes: float = option(
        25.0, "gradients travel between copies in parcels of this size", above=0, identity=False
    )

    whole = False

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
    def splits_backward(self) -> bool:
        """Whether gradients of inputs and of weights are computed apart, which a compiled network does not allow."""
        return self.schedule.startswith("zero_bubble")

    def grid(self, world: int) -> Grid:
        """How `world` ranks are laid out.

        Raises:
            ConfigError: they cannot be.
        """
        if world == 1:
            raise ConfigError(
                "strategy=pipeline", "this is the only process", f"run: {torchrun(self.ranks or 2, 'pipeline')}"
            )
        ranks = self.ranks or world
        if world % ranks:
            raise ConfigError(
                f"strategy.ranks={ranks}",
                f"does not divide the {world} processes that torchrun started",
                "choose a divisor, or null",
            )
        return Grid(pipeline=ranks, data=world // ranks)

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a network or a batch that cannot be laid out so; see `Layout.check`."""
        grid = self.grid(world)
        if getattr(model, "kind", None) not in ("decoder", "encoder"):
            raise ConfigError(
                "strategy=pipeline", f"has no plan for model.kind={getattr(model, 'kind', None)}", "set strategy=ddp"
            )
        if data.kind == "examples":
            raise ConfigError("strategy=pipeline", "has no plan for the head of objective=finetune", "set strategy=ddp")
        if self.splits_backward and model.positions == "t5":
            raise ConfigError(
                f"strategy.schedule={self.schedule}",
                "takes gradients apart layer by layer, and with model.positions=t5 all layers share a table",
                "set strategy.schedule=1f1b",
            )
        stages = grid.pipeline * self.each
        if model.layers % stages:
            raise ConfigError(
                f"model.layers={model.layers}",
                f"cannot be shared out equally to {stages} stages, {self.each} on each of {grid.pipeline} ranks",
                "change model.layers, strategy.ranks or strategy.stages_per_rank",
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

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this process among those torchrun started.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: as `DDP.build` and `grid`.
        """
        from groundup.strategy import pipeline

        return pipeline.Pipeline(
            local_devices("pipeline", accelerator, devices),
            self.grid(ranks.world()),
            self.schedule,
            self.each,
            timeout_minutes=self.timeout_minutes,
            bucket_megabytes=self.bucket_megabytes,
        )


def local_devices(kind: str, accelerator: str, devices: int) -> list[torch.device]:
    """The device of each process on this machine, by local rank.

    Args:
        kind: of strategy, that the remedies name.
        accelerator: "cpu" (gloo) or "cuda" (NCCL).
        devices: processes on this machine.

    Raises:
        ConfigError: not launched by torchrun, too few devices, or an accelerator without collectives.
    """
    if accelerator == "mps":
        raise ConfigError(
            f"strategy={kind}", "there are no collectives on mps", "use strategy=single, or accelerator=cpu"
        )
    world, local = ranks.world(), local_world()
    if world == 1 and devices > 1:
        raise ConfigError(
            f"strategy={kind}",
            f"needs a process for each of {devices} devices, and this is the only one",
            f"run: {torchrun(devices, kind)}",
        )
    if devices not in (1, local):
        raise ConfigError(
            f"devices={devices}",
            f"torchrun started {local} processes on this machine",
            f"run: {torchrun(devices, kind)}",
        )
    import torch

    if accelerator == "cuda" and local > torch.cuda.device_count():
        here = torch.cuda.device_count()
        raise ConfigError(f"LOCAL_WORLD_SIZE={local}", f"this machine has {here} GPUs", f"run: {torchrun(here, kind)}")
    return [
        torch.device(accelerator, number) if accelerator == "cuda" else torch.device("cpu") for number in range(local)
    ]


def local_world() -> int:
    """Processes on this machine: what torchrun says, else all of them.

    Raises:
        ConfigError: of several processes, something torchrun sets is missing or does not fit.
    """
    world = ranks.world()
    if world == 1:
        return 1
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(name, f"is unset though WORLD_SIZE={world}", "launch with torchrun, or unset WORLD_SIZE")
    text = os.environ.get("LOCAL_WORLD_SIZE", str(world))
    if not text.isdecimal() or not ranks.local_rank() < int(text) <= world:
        raise ConfigError(
            f"LOCAL_WORLD_SIZE={text}",
            f"must be above LOCAL_RANK={ranks.local_rank()} and at most WORLD_SIZE={world}",
            "launch with torchrun",
        )
    return int(text)


def torchrun(devices: int, kind: str = "ddp") -> str:
    """The command that starts this very program once per device of this machine."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("strategy=")]
    script = sys.argv[0] or "train.py"
    return shlex.join(["torchrun", "--standalone", f"--nproc-per-node={devices}", script, f"strategy={kind}", *given])
