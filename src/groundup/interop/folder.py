"""Model folders of ours and of Hugging Face, one made from the other; what the networks are is `family`'s affair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import atomic_json, atomic_write, read_json
from groundup.interop.family import Family, family_named, family_of
from groundup.interop.place import made
from groundup.interop.tokenizer_json import description, settings
from groundup.model.config import Decoder
from groundup.model.load import expect, load, read_config, save
from groundup.tokenizer.huggingface import FILE
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.pretrained import open_pretrained
from groundup.tokenizer.protocol import CARD, Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer"
OWN = "groundup_tokenizer"
"""The folder of an export that keeps the tokenizer in our own form."""

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
    if tokenizer.vocabulary > config.closed()[0]:
        what = f"is a network for {config.vocabulary} ids beside a tokenizer of {tokenizer.vocabulary}"
        raise CheckpointError(str(run), what, "give a run folder as it was written")
    text, end = description(tokenizer, str(run / TOKENIZER))
    tensors = load(run).state_dict()
    with made(folder) as place:
        tokenizer.save(place / OWN)  # so that the way back gives exactly this one
        atomic_write(place / FILE, text)
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
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(str(where), f"is damaged or incomplete ({error!r})", REMEDY) from None
    except ConfigError as error:
        raise DataError(str(where), f"describes no network that can be ({error.where} {error.what})", REMEDY) from None
    tokenizer = _tokenizer(folder, there)
    if tokenizer.vocabulary > config.closed()[0]:
        what = f"has vocab_size {config.vocabulary}, and the tokenizer beside it {tokenizer.vocabulary} ids"
        raise DataError(str(where), what, REMEDY)
    with torch.device("meta"):
        net = config.build()
    found, pairs = _weights(folder), dict(family.pairs(config))
    left = sorted(name for name in found.keys() - set(pairs.values()) if not family.repeats(name, config))
    if left:
        raise CheckpointError(str(folder / WEIGHTS), f"holds {left[0]}, which {CONFIG} does not speak of", REMEDY)
    tied, own = (found.get(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    if config.tied and tied is not None and own is not None and not torch.equal(tied, own):
        what = f"holds an lm_head.weight of its own, and {CONFIG} says tie_word_embeddings"
        raise CheckpointError(str(folder / WEIGHTS), what, "set tie_word_embeddings to false if it is meant")
    tensors = {ours: family.turned(ours, found[theirs], config) for ours, theirs in pairs.items() if theirs in found}
    try:
        expect(tensors, net.state_dict(), folder / WEIGHTS)
    except CheckpointError as error:
        raise CheckpointError(error.where, error.what.replace("model.json", CONFIG), REMEDY) from None
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    with made(run) as place:
        tokenizer.save(place / TOKENIZER)
        save(net, config, place)
    return config


def _tokenizer(folder: Path, there: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a folder: ours, where the library's file still says the same, else what that file says.

    Its end of a document is the config's `eos_token_id`, where that names a piece.
    """
    path = folder / FILE
    if (folder / OWN / CARD).is_file():
        ours = load_tokenizer(folder / OWN)
        known = json.loads(description(ours, str(folder / OWN))[0])
        if not path.is_file() or _pieces(known) == _pieces(read_json(path, REMEDY)):
            return ours
    end, eos = None, there.get("eos_token_id")
    if path.is_file() and isinstance(eos, int):
        end = next((piece for piece, number in _pieces(read_json(path, REMEDY)).items() if number == eos), None)
    return open_pretrained(path if path.is_file() else folder, None, end)


def _pieces(description: Any) -> dict[str, int]:
    """Every piece of a `tokenizer.json` with its id, added ones too; of what is none, nothing."""
    try:
        vocabulary = description["model"]["vocab"]
        pieces = dict(vocabulary) if isinstance(vocabulary, dict) else {p[0]: i for i, p in enumerate(vocabulary)}
        return pieces | {token["content"]: token["id"] for token in description.get("added_tokens") or []}
    except (KeyError, TypeError, AttributeError, IndexError):
        return {}


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, from one file or from those that an index names."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        index: Any = read_json(folder / INDEX, REMEDY)
        try:
            names = sorted({Path(name).name for name in index["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(str(folder / INDEX), f"is damaged ({error!r})", REMEDY) from None
    found: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        try:
            with safe_open(path, framework="pt") as file:
                found.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118  # it is no mapping
        except FileNotFoundError:
            raise CheckpointError(str(path), "is missing", REMEDY) from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(str(path), f"is damaged or cannot be read ({error})", REMEDY) from None
    return found
