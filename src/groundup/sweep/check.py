"""What a search cannot begin with, found before a trial runs or a file is written, and without Optuna."""

from __future__ import annotations

from typing import Any

from groundup.core import ranks
from groundup.core.errors import ConfigError, StorageError, UserError
from groundup.sweep.config import Search
from groundup.sweep.program import Program
from groundup.sweep.space import overrides, points, probes


def check(options: Search, program: Program) -> Any:
    """The config that all trials begin with, once it and what the space does to it are known to be possible.

    Raises:
        UserError: with the key and the remedy.
    """
    if ranks.world() > 1:
        what = "a search starts its trials itself, each on one process"
        raise ConfigError(f"WORLD_SIZE={ranks.world()}", what, "start it without torchrun; several share the study")
    if not options.space:
        remedy = "give one: '+sweep.space={rate: {key: optimizer.rate, low: 0.001, high: 0.1}}'"
        raise ConfigError("sweep.space", "holds no parameter", remedy)
    if options.sampler == "grid":
        points(options.space)
    base = program.compose([])
    if base.launcher.kind == "slurm":
        what = "hands a run over and does not wait for it, and a search learns from each"
        raise ConfigError("launcher=slurm", what, "leave it out; start the search inside a job, or several in several")
    for name, value in (("fresh", False), ("resume", None), ("stop_steps", None)):
        if getattr(base, name) != value:
            what = "would keep a trial from its end, or from going on where it stopped"
            raise ConfigError(f"{name}={getattr(base, name)}", what, "leave it out; another sweep.study starts over")
    probed = _probe(options, program)
    base.check()
    if options.pruner is not None and options.pruner.every_tokens >= base.tokens:
        where = f"sweep.pruner.every_tokens={options.pruner.every_tokens}"
        raise ConfigError(where, f"is not below tokens={base.tokens}", "look more often, or leave the pruner out")
    for name, given, config in probed:
        try:
            config.check()
        except StorageError:
            raise
        except UserError as error:
            raise _told(name, given, error) from None
    return base


def _probe(options: Search, program: Program) -> list[tuple[str, str, Any]]:
    """Parameter, override and config of every bound and choice."""
    probed = []
    for name, chosen in probes(options.space):
        given = overrides(options.space, chosen)
        try:
            probed.append((name, given[-1], program.compose(given)))
        except UserError as error:
            raise _told(name, given[-1], error) from None
    return probed


def _told(name: str, given: str, error: UserError) -> ConfigError:
    return ConfigError(f"sweep.space.{name}", f"cannot be {given} ({error.where}: {error.what})", error.remedy)
