"""Where Hydra looks for sweepers: it hands a program's command line to `groundup.sweep`, and is all of Hydra there is.

Hydra imports this whenever it starts, so nothing heavy stands above. Presets in conf/sweep choose it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException


class Groundup(Sweeper):
    """Runs a search in the place of Hydra's own multirun."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has; the task is run by processes of their own, not here."""
        del task_function
        self.hydra_context, self.config, self.launcher = hydra_context, config, None

    def sweep(self, arguments: list[str]) -> None:
        """Search.

        Args:
            arguments: the overrides of the command line.

        Raises:
            UserError: one of them, or the search they describe, cannot be.
        """
        from groundup.core.errors import ConfigError
        from groundup.sweep.check import check

        assert self.config is not None and self.hydra_context is not None
        for override in OverridesParser.create().parse_overrides(arguments):
            if override.is_sweep_override():
                where, what = str(override.input_line), "gives several values beside a search"
                raise ConfigError(where, what, "make it a parameter of sweep.space with choices")
        options = _built(self.config).sweep
        if options is None:
            raise ConfigError("hydra/sweeper=groundup", "searches, but nothing says in what", "choose sweep=<option>")
        program = Program(self.config, self.hydra_context.config_loader, arguments)
        base = check(options, program)
        from groundup.sweep.search import search  # only now: what is refused need not wait for Optuna

        search(options, program, base)


class Program:
    """The program that was called, with other overrides.

    Args:
        config: as Hydra composed it.
        loader: Hydra's.
        arguments: the overrides of the command line.
    """

    def __init__(self, config: DictConfig, loader: Any, arguments: list[str]) -> None:
        self._loader, self._name = loader, config.hydra.job.config_name
        hydra_own = [str(word) for word in config.hydra.overrides.hydra]
        given = {*hydra_own, *arguments, "-m", "--multirun"}
        self._flags = [word for word in sys.argv[1:] if word not in given]
        ours = ("sweep", "hydra/sweeper", "hydra.mode")
        self._overrides = [
            word
            for word in [*hydra_own, *arguments]
            if _key(word) not in ours and not _key(word).startswith(("sweep.", "hydra.sweeper."))
        ]

    def compose(self, overrides: list[str]) -> Any:
        """The config with these overrides in the place of given ones of the same keys, and no search.

        Raises:
            UserError: there is no such config.
        """
        from groundup.core.config.verb import as_user_error

        try:
            tree = self._loader.load_configuration(self._name, self._with(overrides), run_mode=RunMode.RUN)
            return _built(tree)
        except (HydraException, OmegaConfBaseException) as error:
            told = as_user_error(error)
            raise error if told is None else told from None

    def command(self, overrides: list[str]) -> list[str]:
        """The command line that runs this config in a process of its own."""
        return [sys.executable, str(Path(sys.argv[0]).resolve()), *self._flags, *self._with(overrides)]

    def _with(self, overrides: list[str]) -> list[str]:
        new = {_key(word) for word in overrides}
        return [*(word for word in self._overrides if _key(word) not in new), *overrides]


def _built(tree: DictConfig) -> Any:
    from groundup.core.config.compose import instantiate

    with open_dict(tree):
        rest = tree.copy()
        rest.pop("hydra", None)
    return instantiate(rest)


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="groundup",
    node={"_target_": f"{__name__}.{Groundup.__name__}"},
    provider="groundup",
)
