"""Model folders of ours and of Hugging Face, one made from the other; what the networks are is `family`'s affair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import atomic_json, atomic_write, read_json
from groundup.interop.card import README, card, recorded
from groundup.interop.families import family_named, family_of
from groundup.interop.family import Family, Link
from groundup.interop.place import made
from groundup.interop.theirs import INDEX, REMEDY, WEIGHTS, Theirs
from groundup.interop.tokenizer_json import description, settings
from groundup.model.config import Decoder
from groundup.model.load import read_config, shape_of, stored, write
from groundup.model.stream import stream
from groundup.tokenizer.huggingface import FILE
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.pretrained import open_pretrained
from groundup.tokenizer.protocol import CARD, Tokenizer

CONFIG = "config.json"
PART_BYTES = 2**31
"""Weights of one file of an export."""

TOKENIZER = "tokenizer"
OWN = "groundup_tokenizer"
"""The folder of an export that keeps the tokenizer in our own form."""


def export(run: Path, folder: Path, model_type: str | None = None, part_bytes: int = PART_BYTES) -> Family:
    """Write a model folder (a finished run, say) as a folder that transformers' `from_pretrained` takes, with its card.

    Memory holds one file's weights at a time, not the network's.

    Args:
        run: holds `model.json`, `weights.safetensors` and `tokenizer/`.
        folder: is made; it must not exist, or be empty.
        model_type: the family, where the network is of several; None: the first.
        part_bytes: weights beyond so many are written in several files and an index.

    Returns:
        What the network is there.

    Raises:
        CheckpointError, DataError: the model folder is incomplete or damaged.
        ConfigError: transformers has no such network.
        StorageError: the folder holds something, or cannot be written.
    """
    config = read_config(run)
    family = family_of(config, model_type)
    tokenizer = load_tokenizer(run / TOKENIZER)
    if tokenizer.vocabulary > config.closed()[0]:
        what = f"is a network for {config.vocabulary} ids beside a tokenizer of {tokenizer.vocabulary}"
        raise CheckpointError(str(run), what, "give a run folder as it was written")
    text, end = description(tokenizer, str(run / TOKENIZER))
    with stored(run) as (_, tensor), made(folder) as place:
        tokenizer.save(place / OWN)  # so that the way back gives exactly this one
        atomic_write(place / FILE, text)
        atomic_json(place / "tokenizer_config.json", settings(end, config.closed()[1]))
        ids = {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
        atomic_json(place / "generation_config.json", ids)
        _write(place, family, config, tensor, part_bytes)
        atomic_json(place / CONFIG, family.describe(config, tokenizer.end))
        record = recorded(run, tokenizer.digest)
        atomic_write(place / README, card(folder.resolve().name, family.architecture, config, tokenizer, record))
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
    with Theirs(folder, family.prefix) as theirs:
        source = _checked(theirs, family, config)
        with made(run) as place:
            tokenizer.save(place / TOKENIZER)
            kinds = {name: (torch.float32, shape) for name, shape in _shapes(config).items()}
            write(config, place, kinds, lambda name: source(name).float())
    return config


def _shapes(config: Decoder) -> dict[str, torch.Size]:
    """The names and shapes of a network's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in config.build().state_dict().items()}


def _write(place: Path, family: Family, config: Decoder, tensor: Callable[[str], Tensor], part_bytes: int) -> None:
    """Write the weights of an export, in one file or in several with an index."""
    shapes = _shapes(config)
    parts: list[list[Link]] = [[]]
    size = 0
    for link in family.links(config, shapes):
        more = 4 * sum(math.prod(shapes[name]) for name in link.ours)
        if parts[-1] and size + more > part_bytes:
            parts.append([])
            size = 0
        parts[-1].append(link)
        size += more
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = WEIGHTS if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
        content = {link.theirs: _out(link, config, tensor) for link in part}
        kinds = {theirs: (value.dtype, value.shape) for theirs, value in content.items()}
        stream(place / name, kinds, content.__getitem__)
        index |= dict.fromkeys(content, name)
    if len(parts) > 1:
        total = 4 * sum(math.prod(shape) for shape in shapes.values())
        atomic_json(place / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _out(link: Link, config: Decoder, tensor: Callable[[str], Tensor]) -> Tensor:
    """A tensor of theirs."""
    parts = [tensor(name) if link.expert is None else tensor(name)[link.expert] for name in link.ours]
    return parts[0].new_zeros(len(parts[0])) if link.zero else link.form.theirs(parts, config)


def _checked(theirs: Theirs, family: Family, config: Decoder) -> Callable[[str], Tensor]:
    """What reads our tensors from theirs, once all of theirs have been looked at.

    Raises:
        CheckpointError: one is missing, is too much, or says what no network here can.
    """
    shapes = _shapes(config)
    links = list(family.links(config, shapes))
    left = sorted(theirs.names - {link.theirs for link in links})
    left = [name for name in left if not family.says_nothing(name, config)]
    if left:
        raise CheckpointError(theirs.path(left[0]), f"holds {left[0]}, which {CONFIG} does not speak of", REMEDY)
    both = config.tied and {family.embedding, family.head} <= theirs.names
    if both and not torch.equal(theirs.tensor(family.embedding), theirs.tensor(family.head)):
        what = f"holds its own {family.head}, and {CONFIG} says tie_word_embeddings"
        raise CheckpointError(theirs.path(family.head), what, "set tie_word_embeddings to false if it is meant")
    places: dict[str, list[tuple[Link, int]]] = {}
    for link in links:
        if link.theirs not in theirs.names:
            if link.zero:
                continue
            what = f"holds another model's weights: there is no {link.theirs}"
            raise CheckpointError(theirs.path(None), what, REMEDY)
        if link.zero and theirs.tensor(link.theirs).any():
            what = f"holds a {link.theirs} that is not zero, and {CONFIG} says that there are no biases"
            raise CheckpointError(theirs.path(link.theirs), what, REMEDY)
        for number, ours in enumerate(() if link.zero else link.ours):
            places.setdefault(ours, []).append((link, number))

    def part(name: str, link: Link, number: int) -> Tensor:
        wanted = shapes[name] if link.expert is None else shapes[name][1:]
        rows = [shapes[ours][0 if link.expert is None else 1] for ours in link.ours]
        found = link.form.ours(theirs.tensor(link.theirs), rows, config)[number]
        if found.shape != wanted:
            what = f"{name} is {shape_of(found.shape)} there and {shape_of(wanted)} in {CONFIG}"
            raise CheckpointError(theirs.path(link.theirs), f"holds another model's weights: {what}", REMEDY)
        return found

    def source(name: str) -> Tensor:
        found = [part(name, *place) for place in places[name]]
        return found[0] if places[name][0][0].expert is None else torch.stack(found)

    return source


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
