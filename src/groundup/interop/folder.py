"""Model folders of ours and of Hugging Face, one made from the other; what the networks are is `family`'s affair."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.core.errors import CheckpointError, ConfigError, DataError, StorageError
from groundup.core.files import atomic_json, atomic_write, make_folder, read_json, storage_error
from groundup.interop.family import Family, family_named, family_of
from groundup.interop.tokenizer_json import description, settings
from groundup.model.config import Decoder
from groundup.model.load import expect, load, read_config, save
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.pretrained import open_pretrained

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer"
REMEDY = "give a folder with config.json, model.safetensors and a tokenizer, as `save_pretrained` writes it"


def export(run: Path, folder: Path) -> Family:
    """Write a model folder (a finished run, say) as a folder that transformers' `from_pretrained` takes.

    Args:
        run: holds `model.json`, `weights.safetensors` and `tokenizer/`.
        folder: is made; it must not exist, or be empty.

    Returns:
        What the network is there.

    Raises:
        CheckpointError, DataError: the model folder is incomplete or damaged.
        ConfigError: transformers has no such network.
        StorageError: the folder holds something, or cannot be written.
    """
    config = read_config(run)
    family = family_of(config)
    tokenizer = load_tokenizer(run / TOKENIZER)
    text, end = description(tokenizer, str(run / TOKENIZER))
    tensors = load(run).state_dict()
    with made(folder) as place:
        tokenizer.save(place)  # so that the way back gives exactly this one
        atomic_write(place / "tokenizer.json", text)
        atomic_json(place / "tokenizer_config.json", settings(end, config.closed()[1]))
        ids = {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
        atomic_json(place / "generation_config.json", ids)
        renamed = {theirs: family.turned(ours, tensors[ours], config) for ours, theirs in family.pairs(config)}
        atomic_write(place / WEIGHTS, safetensors.torch.save(renamed, metadata={"format": "pt"}))
        atomic_json(place / CONFIG, family.describe(config, tokenizer.end))
    return family


def import_(folder: Path, run: Path) -> Decoder:
    """Write a folder of Hugging Face's as a model folder, which `groundup.model.load` takes.

    Args:
        folder: as `save_pretrained` writes it, with safetensors in one file or several.
        run: is made; it must not exist, or be empty.

    Returns:
        The network's config.

    Raises:
        DataError: a file is missing or damaged, or the network is none that is known here.
        CheckpointError: the weights do not fit the config.
        StorageError: the folder holds something, or cannot be written.
    """
    where = folder / CONFIG
    there = read_json(where, REMEDY)
    if not isinstance(there, dict):
        raise DataError(str(where), "describes no network", REMEDY)
    family = family_named(there.get("model_type"), str(where))
    try:
        config = family.config(there, str(where))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(str(where), f"is damaged or incomplete ({error!r})", REMEDY) from None
    except ConfigError as error:
        raise DataError(str(where), f"describes no network that can be ({error.where} {error.what})", REMEDY) from None
    tokenizer = open_pretrained(folder, None, None)
    if tokenizer.vocabulary > config.closed()[0]:
        what = f"has vocab_size {config.vocabulary}, and the tokenizer beside it {tokenizer.vocabulary} ids"
        raise DataError(str(where), what, REMEDY)
    with torch.device("meta"):
        net = config.build()
    found, pairs = _weights(folder), dict(family.pairs(config))
    left = sorted(name for name in found.keys() - set(pairs.values()) if not family.repeats(name, config))
    if left:
        raise CheckpointError(str(folder / WEIGHTS), f"holds {left[0]}, which {CONFIG} does not speak of", REMEDY)
    tensors = {ours: family.turned(ours, found[theirs], config) for ours, theirs in pairs.items() if theirs in found}
    expect(tensors, net.state_dict(), folder / WEIGHTS)
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    with made(run) as place:
        tokenizer.save(place / TOKENIZER)
        save(net, config, place)
    return config


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place once the block ends well, and is removed otherwise.

    Raises:
        StorageError: something stands at `folder`, or it cannot be written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise StorageError(str(folder), "holds something already", "give a new folder, or remove that one")
    place = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(place, ignore_errors=True)
    make_folder(place)
    try:
        yield place
        if folder.is_dir():
            folder.rmdir()
        place.rename(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, from one file or from those that an index names."""
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        index: Any = read_json(folder / INDEX, REMEDY)
        try:
            names = sorted(set(index["weight_map"].values()))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(str(folder / INDEX), f"is damaged ({error!r})", REMEDY) from None
    found: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        try:
            with safe_open(path, framework="pt") as file:
                found.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118  # it is no mapping
        except FileNotFoundError:
            raise CheckpointError(str(path), "is missing", REMEDY) from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(str(path), f"is damaged or cannot be read ({error})", REMEDY) from None
    return found
