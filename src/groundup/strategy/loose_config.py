"""Options of the loosely coupled strategies, whose workers do not wait for one another at each step; no torch here."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import option, schema
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid
from groundup.strategy.config import Layout

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.strategies import Strategy


class Loose(Layout):
    """What the strategies here have in common: their options decide what is learned."""

    kind: str
    steerable = False

    def mathematics(self) -> Any:
        """Every option but those of the machinery."""
        every: Any = self
        return {f.name: getattr(self, f.name) for f in fields(every) if f.metadata["identity"]}


@schema("strategy", "local_sgd")
class LocalSGD(Loose):
    """Workers that train alone and meet every so many steps (Stich 2018; DiLoCo, Douillard et al. 2023)."""

    every: int = option(20, "steps each worker does alone, with the run's optimizer, between outer steps", at_least=1)
    outer_rate: float = option(0.7, "rate of the outer step along the mean of the workers' differences", above=0)
    outer_momentum: float = option(0.9, "Nesterov momentum of the outer step", at_least=0, below=1)
    travel: str = option(
        "weights",
        "numbers in which differences travel: those of the weights (fp32), or bf16",
        choices=("weights", "bf16"),
    )
    timeout_minutes: float = option(
        30.0, "an outer step that waits longer than this ends the run", above=0, identity=False
    )

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a batch that the workers cannot share evenly; arguments as for `Layout.check`.

        Raises:
            ConfigError: some would do more than others, and their differences would not weigh the same.
        """
        del model
        each, rest = divmod(data.samples, world)
        if rest or not each:
            raise ConfigError(
                f"data.batch_tokens={data.batch_tokens}",
                f"are {data.samples} samples a step, and {world} workers share them evenly",
                f"set it to {max(1, each) * world * data.context} or another multiple of {world * data.context}",
            )
        if each % data.rows:
            fits = max(number for number in range(1, min(data.rows, each) + 1) if each % number == 0)
            raise ConfigError(
                f"data.micro_batch={data.micro_batch}",
                f"does not divide the {each} samples of each of {world} workers",
                f"set it to {fits}",
            )

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of this worker among those torchrun started.

        Args:
            accelerator: "cpu" (gloo) or "cuda" (NCCL).
            devices: processes on this machine.

        Raises:
            ConfigError: half launched, or on an accelerator without collectives, or on too few devices.
        """
        del devices
        here = _devices(self.kind, accelerator)
        import torch

        from groundup.strategy import local_sgd

        return local_sgd.LocalSGD(
            here,
            timeout_minutes=self.timeout_minutes,
            every=self.every,
            rate=self.outer_rate,
            momentum=self.outer_momentum,
            travel=torch.bfloat16 if self.travel == "bf16" else None,
        )


@schema("strategy", "async_sgd")
class AsyncSGD(Loose):
    """Rank 0 keeps the weights; the others compute gradients for it, each at its own pace (Dean et al. 2012)."""

    staleness: int | None = option(
        4,
        "updates that weights may have missed when their gradient is used: a worker waits rather than begin "
        "what could exceed it (Ho et al. 2013); null: no bound",
        at_least=0,
    )
    port: int = option(0, "where rank 0 listens; 0: any free port", at_least=0, at_most=65535, identity=False)
    timeout_minutes: float = option(
        30.0,
        "a worker that takes longer for a step counts as dead; without any worker for as long the run ends",
        above=0,
        identity=False,
    )

    def grid(self, world: int) -> Grid:
        """Every rank has all of the net and, when it draws a step, all of its samples."""
        return Grid(data=world)

    def share(self, world: int, rank: int) -> tuple[int, int]:
        """All of a step: it is one worker's."""
        del world, rank
        return 0, 1

    @property
    def needs_rows(self) -> str | None:
        """Why `data.micro_batch` must be a number."""
        return "its workers come and go, and need not be alike"

    def leads(self, rank: int) -> bool:
        """Rank 0 serves; the others compute for it."""
        return rank == 0

    def check(self, world: int, model: Any, data: Any) -> None:
        """Find a server without workers; arguments as for `Layout.check`.

        Raises:
            ConfigError: there is one rank.
        """
        del model, data
        if world < 2:
            raise ConfigError(
                "strategy=async_sgd",
                "is a server and at least one worker, and this is the only process",
                "start several with torchrun, or use strategy=single",
            )

    def build(self, accelerator: str, devices: int) -> Strategy:
        """The strategy of the server, or of a worker.

        Args:
            accelerator: "cpu" or "cuda".
            devices: processes on this machine.

        Raises:
            ConfigError: as for `LocalSGD.build`.
        """
        del devices
        from groundup.strategy import async_sgd

        device = _devices(self.kind, accelerator)[ranks.local_rank()]
        seconds = self.timeout_minutes * 60
        if ranks.rank() == 0:
            return async_sgd.Server(device, self.port, self.staleness, seconds)
        return async_sgd.Worker(device, seconds)


def _devices(kind: str, accelerator: str) -> list[torch.device]:
    """A device for each process of this machine.

    Raises:
        ConfigError: there are not so many, or they cannot talk.
    """
    if accelerator == "mps":
        raise ConfigError(f"strategy={kind}", "is not made for mps", "use strategy=single, or accelerator=cpu")
    local = ranks.local_world()
    import torch

    if accelerator == "cuda" and local > torch.cuda.device_count():
        what = f"this machine has {torch.cuda.device_count()} GPUs"
        raise ConfigError(f"LOCAL_WORLD_SIZE={local}", what, "start fewer processes on it")
    return [
        torch.device(accelerator, number) if accelerator == "cuda" else torch.device("cpu") for number in range(local)
    ]
