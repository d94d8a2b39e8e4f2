"""Where metrics go, each as a Lightning logger; only rank 0 writes, and nothing here knows what a metric means."""

from __future__ import annotations

import importlib
import netrc
import os
import secrets
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import lightning.pytorch.loggers.logger as base
from typing_extensions import override

from groundup.callback.history import METRICS, SPEED, History
from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.core.files import atomic_write, make_folder
from groundup.core.progress import Progress
from groundup.trainer import logger_config

_SPEED_PREFIX = "speed/"


class Logger(base.Logger):
    """A logger that writes on rank 0 alone, and to a folder whose name is the run's identity."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.writes = ranks.rank() == 0

    @property
    @override
    def name(self) -> str:
        """The run's name."""
        return self.folder.parent.name

    @property
    @override
    def version(self) -> str:
        """The run's identity."""
        return self.folder.name

    @property
    @override
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics of a step, which must be given."""
        if step is None:
            raise ValueError("metrics belong to a step of the run's clock: give step=")
        if self.writes and metrics:
            self.put({name: _plain(value) for name, value in metrics.items()}, step)

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write the run's config, where this logger has a place for it."""
        if self.writes:
            self.put_config(vars(params) if isinstance(params, Namespace) else params)

    @abstractmethod
    def put(self, metrics: dict[str, float], step: int) -> None:
        """Write metrics; called on rank 0 alone."""

    def put_config(self, config: dict[str, Any]) -> None:
        """Write the config; most have it from the run folder."""

    @override
    def finalize(self, status: str) -> None:
        """Nothing is held back, so there is nothing to end."""


class Csv(Logger):
    """metrics.csv and speed.csv in the run folder, in the form of `callback.history`.

    What depends on the machine (names beginning with `speed/`) stands apart, so that metrics.csv of a run that
    was killed and resumed is, byte for byte, that of one that was not.
    """

    def __init__(self, folder: Path, clock: Progress) -> None:
        super().__init__(folder)
        self._metrics, self._speed = History(folder / METRICS), History(folder / SPEED)
        if self.writes:
            self._metrics.rewind(clock.steps)
            self._speed.rewind(clock.steps)

    @override
    def put(self, metrics: dict[str, float], step: int) -> None:
        """Append to the two files; done when this returns, whatever happens to the process."""
        speed = {name: value for name, value in metrics.items() if name.startswith(_SPEED_PREFIX)}
        rest = {name: value for name, value in metrics.items() if name not in speed}
        if rest:
            self._metrics.append(step, rest)
        if speed:
            self._speed.append(step, speed)

    @override
    def save(self) -> None:
        """Make all of it survive a loss of power."""
        if self.writes:
            self._metrics.sync()
            self._speed.sync()


class Wandb(Logger):
    """A run of Weights & Biases, in the group of the run's name (or another) and under that name and its identity.

    Online, its id stands in the run folder, so that the same run goes on when training does; offline files
    cannot be appended to, so there each part of the training is a run of its own beside the others.
    The step is a metric that all others are drawn over: W&B drops what is logged for a step before its newest,
    and after a rollback that would be everything. A run belongs to this object and not to the process, so the
    jobs of a multirun do not mix.
    """

    def __init__(self, options: logger_config.Wandb, folder: Path, name: str, clock: Progress) -> None:
        super().__init__(folder)
        self._run: Any = None
        if self.writes:
            wandb = _need("wandb", "logger.wandb")
            place, mode = make_folder(folder / "wandb"), _mode(options.mode)
            try:
                self._run = wandb.init(
                    project=options.project,
                    entity=options.entity,
                    dir=str(folder),
                    id=_lasting_id(place / "id", folder.name) if mode == "online" else _new_id(folder.name),
                    name=f"{name}-{folder.name[:8]}",
                    group=options.group or name,
                    resume="allow" if mode == "online" else None,
                    mode=mode,
                    reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off"),
                )
            except wandb.Error as error:
                raise ConfigError(
                    "logger.wandb", str(error), "set logger.wandb.mode=offline, or leave it out"
                ) from None
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
            self._run.summary["first_step"] = clock.steps + 1

    @override
    def put(self, metrics: dict[str, float], step: int) -> None:
        """Log a row."""
        self._run.log({**metrics, "step": step})

    @override
    def put_config(self, config: dict[str, Any]) -> None:
        """Set the run's config."""
        self._run.config.update(config, allow_val_change=True)

    @override
    def finalize(self, status: str) -> None:
        """End this part of the run: what was logged is written, or sent."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
            self._run, self.writes = None, False


class Tensorboard(Logger):
    """Event files in the run folder's tensorboard/."""

    def __init__(self, folder: Path, clock: Progress) -> None:
        super().__init__(folder)
        self._writer: Any = None
        if self.writes:
            _need("tensorboard", "logger.tensorboard")
            module = importlib.import_module("torch.utils.tensorboard")
            purge = clock.steps + 1 if clock.steps else None
            self._writer = module.SummaryWriter(str(make_folder(folder / "tensorboard")), purge_step=purge)

    @override
    def put(self, metrics: dict[str, float], step: int) -> None:
        """Add a scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step)

    @override
    def save(self) -> None:
        """Hand what is queued to the operating system."""
        if self._writer is not None:
            self._writer.flush()

    @override
    def finalize(self, status: str) -> None:
        """Close the file; a logger that is finished writes no more."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self.writes = None, False


def wandb_key() -> bool:
    """Whether a key for W&B is at hand: in WANDB_API_KEY, or in the netrc file for its host."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _mode(chosen: str) -> str:
    if chosen == "auto":
        return os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
    return chosen


def _lasting_id(path: Path, identity: str) -> str:
    """The run's id at W&B: made once and kept; a fresh start in a new folder gets another."""
    if not path.exists():
        atomic_write(path, f"{_new_id(identity)}\n")
    return path.read_text(encoding="utf-8").strip()


def _new_id(identity: str) -> str:
    return f"{identity}-{secrets.token_hex(4)}"


def _need(package: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(where, f"needs {package} ({error})", f"pip install {package}, or leave it out") from None


def _plain(value: Any) -> float:
    return value if isinstance(value, int) else float(value)
