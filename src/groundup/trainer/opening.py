"""A run, a checkpoint or a model folder opened to be measured or written with; nothing here changes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import groundup.data.config
import groundup.model.config
import groundup.objective.config  # noqa: F401  # these register what a saved run may name
from groundup.core import checkpoint, ranks
from groundup.core.config import from_dict
from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import read_json
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.data.opening import storage_of, tokenizer_folder
from groundup.model.decoder import Decoder
from groundup.model.load import WEIGHTS, fill, load, read_config
from groundup.model.net import Net
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.trainer import segments as segment_list
from groundup.trainer.changes import apply
from groundup.trainer.export import fill_from, weights_of
from groundup.trainer.find import is_checkpoint, is_run


@dataclass
class Opened:
    """What can be asked of a folder.

    Attributes:
        folder: the run's, or the model's.
        source: the checkpoint whose weights are meant, None: those of the folder.
        tokenizer: of its data.
        model: the net's config.
        data: config of the data it was trained on, None for a model without a history here.
        objective: config of what it was trained for.
        seed: of the run.
        progress: the clock of the weights.
        name: the run's name, or the folder's.
    """

    folder: Path
    source: Path | None
    tokenizer: Tokenizer
    model: Any
    data: Shards | None
    objective: Any
    seed: int
    progress: Progress
    name: str

    @property
    def weights(self) -> str:
        """Where they came from, in words."""
        if self.source is not None:
            return str(self.source)
        return "the finished run" if is_run(self.folder) else "a model folder"

    @cached_property
    def form(self) -> Decoder:
        """The net without memory, for what it can be asked."""
        with torch.device("meta"):
            net: Decoder = self.model.build()
        return net

    @cached_property
    def net(self) -> Decoder:
        """The whole net with its weights, on the CPU and in eval mode.

        Raises:
            CheckpointError: the weights are damaged, or another model's.
        """
        if self.source is None:
            return load(self.folder)
        with torch.device("meta"):
            net: Decoder = self.model.build()
        net.load_state_dict(weights_of(self.source), strict=True, assign=True)
        return net.eval()

    def fill(self, net: Net) -> None:
        """Give a net that is spread over ranks its weights; all ranks call this together, and none reads all at once.

        Raises:
            CheckpointError: as `net`.
        """
        if self.source is None:
            fill(net, self.folder)
        else:
            fill_from(self.source, net, alone=ranks.world() == 1)


def open_run(path: Path, say: Callable[[str], None], data_path: str | None = None) -> Opened:
    """Open a folder that `find` gave.

    Args:
        path: of a run, a checkpoint or a model.
        say: told which checkpoint is taken where the run is not finished.
        data_path: where the data is now, None: where it was.

    Raises:
        CheckpointError: something is missing or damaged.
        DataError: the tokenizer is.
        ConfigError: the run names components of a package that is not there.
    """
    source = path if is_checkpoint(path) else None
    folder = path.resolve().parents[1] if source else path
    if not is_run(folder):
        return _model(folder)
    config, segments = segment_list.read(folder)
    import_plugins(config.get("plugins") or [])
    where = {} if data_path is None else {"path": data_path}
    data = from_dict("data", {**config["data"], **where})
    objective = from_dict("objective", config["objective"])
    if hasattr(objective, "head"):
        what = "was fine-tuned on examples, and its own report has what it answers to those held out"
        raise ConfigError(f"run={path}", what, "ask it more by groundup.objective.predict: see docs/guide/recipes.md")
    listed = checkpoint.listed(folder)
    behind = bool(listed) and checkpoint.step_of(listed[-1]) < segments[-1].last.steps
    if source is None and (behind or not (folder / WEIGHTS).is_file()):
        source = checkpoint.newest(folder, say)
        if source is None:
            raise CheckpointError(str(folder), "holds no weights and no good checkpoint", "run train.py again first")
        say(f"the run is not finished: taking {source}")
    elif source is not None:
        checkpoint.verify(source)
    progress = segments[-1].last if source is None else Progress(**read_json(source / "state.json")["progress"])
    number = min(segment_list.at(segments, Progress(max(0, progress.steps - 1))), len(segments) - 1)
    changed = {key: value for key, value in segments[number].set.items() if key.startswith(("data.", "objective."))}
    effective = apply(SimpleNamespace(data=data, objective=objective), changed)
    if source is None:
        model: Any = read_config(folder)
    else:
        model = from_dict("model", read_json(source / "state.json")["nets"]["model"])
    return Opened(
        folder,
        source,
        _tokenizer(folder, data),
        model,
        effective.data,
        effective.objective,
        int(config["seed"]),
        progress,
        str(config["name"]),
    )


def import_plugins(names: list[str]) -> None:
    """Import what a saved run names, so that the components it was made of are known.

    Raises:
        ConfigError: a module that cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            what = f"the run was made with this package, which cannot be imported ({error})"
            raise ConfigError(f"plugins={name}", what, "install it, or put its folder on PYTHONPATH") from None


def _model(folder: Path) -> Opened:
    """A model without a history, as `interop import` makes it."""
    config = read_config(folder)
    objective = from_dict("objective", {"kind": "pretrain"})
    tokenizer = _tokenizer(folder, None)
    return Opened(folder, None, tokenizer, config, None, objective, 0, Progress(), folder.resolve().name)


def _tokenizer(folder: Path, data: Any) -> Tokenizer:
    """The tokenizer of a finished run, else that of the data."""
    if (folder / "tokenizer" / CARD).is_file():
        return load_tokenizer(folder / "tokenizer")
    if data is None or (folder / WEIGHTS).is_file():
        raise DataError(str(folder / "tokenizer"), "is missing", "put the model's tokenizer folder there")
    return load_tokenizer(tokenizer_folder(storage_of(data)))
