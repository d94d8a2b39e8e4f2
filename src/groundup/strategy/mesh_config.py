"""Strategies that split nets over ranks: `strategy=mesh` has all of their options, the others those of one way."""

from __future__ import annotations

import dataclasses
from typing import Any

from groundup.core.config import option, schema
from groundup.core.errors import ConfigError
from groundup.strategy.config import torchrun
from groundup.strategy.meshed import Meshed, Routed, Sharding, Shared, Staged


@schema("strategy", "fsdp")
class FSDP(Routed):
    """Weights, gradients and optimizer state cut over the processes (ZeRO; Zhao et al. 2023); started by torchrun."""

    context: int = option(
        1,
        "processes that compute positions of the same samples, for long contexts; a context is cut into two chunks for "
        "each, and weights are cut over all processes",
        at_least=1,
        identity=False,
    )

    def along_context(self, world: int) -> int:
        """Over how many ranks the positions of each sample are spread."""
        del world
        return self.context


@schema("strategy", "tensor")
class Tensor(Shared):
    """Each layer shared by processes, which talk in the midst of it (Shoeybi et al. 2019); started by torchrun."""

    ranks: int | None = option(
        None,
        "processes that share each layer, best on one machine; others hold copies and read other samples; null: all",
        at_least=1,
        identity=False,
    )

    def sizes(self, world: int) -> tuple[int, int]:
        """How many ranks lie along the pipeline, and how many share each layer."""
        return 1, self.ranks or world


@schema("strategy", "context")
class Context(Meshed):
    """The positions of each sample spread over processes, which gather keys and values; started by torchrun.

    Llama 3 does so for long contexts (Dubey et al. 2024, section 3.3.2). Each process has a copy of the weights.
    """

    ranks: int | None = option(
        None,
        "processes that compute positions of the same samples; others read other samples; null: all",
        at_least=1,
        identity=False,
    )

    def along_context(self, world: int) -> int:
        """Over how many ranks the positions of each sample are spread."""
        return self.ranks or world


@schema("strategy", "pipeline")
class Pipeline(Staged):
    """A stretch of the layers per process, micro-batches after each other through all of them; started by torchrun.

    Each process holds the weights, gradients and optimizer state of its own layers alone.
    """

    ranks: int | None = option(
        None,
        "processes over which the layers are spread; others hold copies and read other samples; null: all",
        at_least=2,
        identity=False,
    )

    answers = False
    cuts = False

    def sizes(self, world: int) -> tuple[int, int]:
        """How many ranks lie along the pipeline, and how many share each layer.

        Raises:
            ConfigError: there is one process alone.
        """
        if world == 1:
            raise ConfigError(
                "strategy=pipeline", "this is the only process", f"run: {torchrun(self.ranks or 2, 'pipeline')}"
            )
        return self.ranks or world, 1


@schema("strategy", "mesh")
class Mesh(Routed, Staged, Shared):
    """Pipeline, data and tensor ranks in one run (PTD-P: Narayanan et al. 2021); started by torchrun.

    Tensor ranks are neighbours and belong on one machine; those of a pipeline are farthest apart. The ranks that are
    left over hold copies, or with `shard` parts, and read other samples; with `experts` neighbours among them hold
    different experts.
    """

    pipeline: int = option(1, "processes over which the layers are spread", at_least=1, identity=False)
    tensor: int = option(1, "processes that share each layer, best on one machine", at_least=1, identity=False)
    shard: bool = option(
        False,
        "cut weights, gradients and optimizer state over the processes that read different samples, as strategy=fsdp "
        "does; false: each has a copy",
        identity=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for means, used, options in (
            ("strategy.shard=true", self.shard, Sharding),
            ("strategy.pipeline of at least 2", self.pipeline > 1, Staged),
            ("strategy.tensor of at least 2", self.tensor > 1, Shared),
        ):
            for name in () if used else _own(options):
                if (given := getattr(self, name)) != getattr(Mesh, name):
                    raise ConfigError(f"{name}={given}", f"needs {means}", f"set that, or leave {name} out")
        if self.shard and self.pipeline > 1:
            raise ConfigError(
                "shard=true",
                f"does not go with strategy.pipeline={self.pipeline}: a stage would gather its weights again for every "
                "micro-batch",
                "set strategy.shard=false, or strategy.pipeline=1",
            )

    @property
    def answers(self) -> bool:  # type: ignore[override]
        """Whether each rank can ask a net as a whole."""
        return self.pipeline == 1

    @property
    def needs_rows(self) -> str | None:
        """Why `data.micro_batch` must be a number, if the layers are spread."""
        return super().needs_rows if self.pipeline > 1 else None

    @property
    def cuts(self) -> bool:
        """Whether a rank may have a part of a matrix."""
        return self.shard or self.tensor > 1 or self.experts > 1

    def sizes(self, world: int) -> tuple[int, int]:
        """How many ranks lie along the pipeline, and how many share each layer."""
        del world
        return self.pipeline, self.tensor

    def further(self) -> dict[str, Any]:
        """Further arguments of the strategy."""
        staged = {"schedule", "each"} if self.pipeline == 1 else set()
        found = {name: value for name, value in super().further().items() if name not in staged}
        return found | {"sharded": self.shard}


def _own(options: type[Meshed]) -> list[str]:
    """The names of the options that a class adds."""
    return [field.name for field in dataclasses.fields(options) if field.name in vars(options)]
