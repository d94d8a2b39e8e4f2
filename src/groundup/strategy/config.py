"""Options of the strategies and the checks of where they run; importing this imports neither torch nor lightning."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import from_dict, group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy

group("strategy", "how the model and the work are spread over devices")

TRAVEL = "numbers in which gradients travel and are summed: those of the weights, or bf16"


@dataclasses.dataclass(kw_only=True)
class Layout:
    """What every strategy answers before anything is built; here for those that only copy the nets."""

    answers = True
    """Whether each rank can ask a net as a whole, as those do who watch it."""

    steerable = True
    """Whether a step can be refused, and a run sent back, alike on all ranks."""

    takes_over = True
    """Whether an optimizer can go on from what one of another kind remembers."""

    recompute: str = option(
        "none",
        "compute activations of blocks again in the backward pass instead of keeping them: all of them (full), or all "
        "but what attention and every other matrix product give (selective)",
        choices=("none", "selective", "full"),
        identity=False,
    )

    def grid(self, world: int) -> Grid:
        """How `world` ranks are laid out."""
        return Grid(data=world)

    def share(self, world: int, rank: int) -> tuple[int, int]:
        """Which of how many shares of each step's samples a rank reads."""
        grid = self.grid(world)
        return grid.place(rank).data, grid.data

    def leads(self, rank: int) -> bool:
        """Whether a rank keeps the clock, or only computes for those that do: it then measures and saves nothing."""
        del rank
        return True

    @property
    def needs_rows(self) -> str | None:
        """Why `data.micro_batch` must be a number; None: it may be found by trying."""
        return None

    def mathematics(self) -> Any:
        """What of these options decides what is learned, so that another value is another run; None: nothing."""
        return None

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a network or a batch that cannot be laid out so.

        Args:
            world: ranks.
            model: the network's config.
            data: the data's; `samples` make a step, `rows` a micro-batch.

        Raises:
            ConfigError: with the numbers that do not fit.
        """

    def check_optimizer(self, kind: str) -> None:
        """Find an optimizer that cannot move nets laid out so.

        Raises:
            ConfigError: it cannot.
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
        fitting = from_dict("strategy", {"kind": kind, "recompute": self.recompute})
        strategy: Strategy = fitting.build(accelerator, devices)
        return strategy


@schema("strategy", "single")
class Single(Layout):
    """One process on one device."""

    def check(self, world: int, model: Any, data: Any) -> None:
        """See that there are no others.

        Args:
            world: ranks.
            model: any.
            data: any.

        Raises:
            ConfigError: there are.
        """
        del model, data
        if world > 1:
            raise ConfigError("strategy=single", f"trains in one process, not in {world}", "use strategy=ddp")

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

        made = single.Single(torch.device(accelerator, 0) if accelerator == "cuda" else torch.device(accelerator))
        made.recompute = self.recompute
        return made


@schema("strategy", "ddp")
class DDP(Layout):
    """A copy of the model per process, gradients summed (Li et al. 2020, PyTorch Distributed); started by torchrun."""

    timeout_minutes: float = option(
        30.0, "a collective that waits longer than this ends the run", above=0, identity=False
    )
    bucket_megabytes: float = option(
        25.0, "gradients travel in parcels of this size while backward goes on", above=0, identity=False
    )
    travel: str = option("weights", TRAVEL, choices=("weights", "bf16"), identity=False)

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this process among those torchrun started; one alone needs no torchrun.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: not launched by torchrun, too few devices, or an accelerator without collectives.
        """
        here = devices_here("ddp", accelerator, devices)
        import torch

        from groundup.strategy import ddp

        made = ddp.DDP(
            here,
            timeout_minutes=self.timeout_minutes,
            bucket_megabytes=self.bucket_megabytes,
            travel=torch.bfloat16 if self.travel == "bf16" else None,
        )
        made.recompute = self.recompute
        return made


def devices_here(kind: str, accelerator: str, devices: int) -> list[torch.device]:
    """The devices of the processes on this machine, by local rank.

    Args:
        kind: of strategy, for the remedy.
        accelerator: "cpu" or "cuda".
        devices: processes on this machine.

    Raises:
        ConfigError: not launched by torchrun, too few devices, or an accelerator without collectives.
    """
    if accelerator == "mps":
        raise ConfigError(
            f"strategy={kind}", "there are no collectives on mps", "use strategy=single, or accelerator=cpu"
        )
    world, local = ranks.world(), ranks.local_world()
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
    return [torch.device(accelerator, n) if accelerator == "cuda" else torch.device("cpu") for n in range(local)]


def torchrun(devices: int, kind: str = "ddp") -> str:
    """The command that starts this very program once per device of this machine."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("strategy=")]
    script = sys.argv[0] or "train.py"
    return shlex.join(["torchrun", "--standalone", f"--nproc-per-node={devices}", script, f"strategy={kind}", *given])
