"""A run, a checkpoint or a model folder opened to be measured or written with; nothing here changes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import groundup.data.config
import groundup.model.config
import groundup.objective.config  # noqa: F401  # these register what a saved run may name
from groundup.core import checkpoint
from groundup.core.config import from_dict
from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import read_json
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.data.opening import storage_of, tokenizer_folder
from groundup.model.decoder import Decoder
from groundup.model.load import WEIGHTS, load, read_config
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.trainer import segments as segment_list
from groundup.trainer.export import weights_of
from groundup.trainer.find import is_checkpoint, is_run


@dataclass
class Opened:
    """What can be asked of a folder.

    Attributes:
        folder: the run's, or the model's.
        weights: where they came from, in words.
        net: on the CPU, in eval mode.
        tokenizer: of its data.
        model: the net's config.
        data: config of the data it was trained on, None for a model without a history here.
        objective: config of what it was trained for.
        seed: of the run.
        progress: the clock of the weights.
        name: the run's name, or the folder's.
    """

    folder: Path
    weights: str
    net: Decoder
    tokenizer: Tokenizer
    model: Any
    data: Shards | None
    objective: Any
    seed: int
    progress: Progress
    name: str


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
    effective = segment_list.apply(SimpleNamespace(data=data, objective=objective), changed)
    if source is None:
        net, model = load(folder), read_config(folder)
    else:
        model = from_dict("model", read_json(source / "state.json")["nets"]["model"])
        with torch.device("meta"):
            net = model.build()
        net.load_state_dict(weights_of(source), strict=True, assign=True)
    return Opened(
        folder,
        "the finished run" if source is None else str(source),
        net.eval(),
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
    net = load(folder)
    objective = from_dict("objective", {"kind": "pretrain"})
    tokenizer = _tokenizer(folder, None)
    return Opened(
        folder, "a model folder", net, tokenizer, net.config, None, objective, 0, Progress(), folder.resolve().name
    )


def _tokenizer(folder: Path, data: Any) -> Tokenizer:
    """The tokenizer of a finished run, else that of the data."""
    if (folder / "tokenizer" / CARD).is_file():
        return load_tokenizer(folder / "tokenizer")
    if data is None or (folder / WEIGHTS).is_file():
        raise DataError(str(folder / "tokenizer"), "is missing", "put the model's tokenizer folder there")
    return load_tokenizer(tokenizer_folder(storage_of(data)))
