"""Model folders of ours and of Hugging Face, one made from the other; what the networks are is `family`'s affair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.core.files import atomic_json, atomic_write, read_json
from groundup.interop.card import README, Figures, card, recorded, trained_for
from groundup.interop.families import family_named, family_of
from groundup.interop.family import Family, Link, generation
from groundup.interop.folding import grown
from groundup.interop.marks import Marks, is_name, marks, padded
from groundup.interop.place import made
from groundup.interop.theirs import INDEX, REMEDY, WEIGHTS, Theirs
from groundup.interop.tokenizer_json import byt5, description, library_of, settings, unmade
from groundup.model.config import Encoder, EncoderDecoder
from groundup.model.load import read_config, shape_of, stored, write
from groundup.model.options import Transformer
from groundup.model.stream import stream
from groundup.tokenizer.huggingface import FILE
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.pretrained import open_pretrained
from groundup.tokenizer.protocol import CARD, Tokenizer

CONFIG, SETTINGS = "config.json", "tokenizer_config.json"
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
    record = recorded(run, tokenizer.digest)
    named = _marks(config, family, tokenizer, record, str(run / TOKENIZER))
    described = description(tokenizer, str(run / TOKENIZER), named)
    pad = tokenizer.end if named.pad is None else named.pad
    family = family if family.padded is None else family.padded(pad)
    there, factors = family.plain(config)
    with stored(run) as (_, tensor), made(folder) as place:
        tokenizer.save(place / OWN)  # so that the way back gives exactly this one
        atomic_write(place / FILE, described.text)
        atomic_json(place / SETTINGS, settings(described, config.closed()[1]))
        if family.kind is not Encoder:
            atomic_json(place / "generation_config.json", generation(config, tokenizer.end, pad))
        _write(place, family, there, grown(tensor, factors), part_bytes)
        atomic_json(place / CONFIG, family.describe(there, tokenizer.end, pad))
        name = folder.resolve().name
        atomic_write(place / README, card(name, family.architecture, config, tokenizer, record, described.mask))
    return family


def _marks(config: Transformer, family: Family, tokenizer: Tokenizer, record: Figures, where: str) -> Marks:
    """The ids of a network that no text is made of."""
    library = library_of(tokenizer, where)
    found = marks(config, tokenizer.vocabulary, library.get_vocab(), trained_for(record), family.sentinels)
    if family.padded is None:
        return found
    return padded(found, config, tokenizer.vocabulary, unmade(tokenizer, library), tokenizer.end)


def import_(folder: Path, run: Path) -> Transformer:
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
        family = family if family.padded is None else family.padded(int(there.get("pad_token_id", 1)))
        config = family.config(there, str(where))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(str(where), f"is damaged or incomplete ({error!r})", REMEDY) from None
    except ConfigError as error:
        raise DataError(str(where), f"describes no network that can be ({error.where} {error.what})", REMEDY) from None
    tokenizer = _tokenizer(folder, there)
    if tokenizer.vocabulary > config.closed()[0]:
        what = f"has vocab_size {config.vocabulary}, and the tokenizer beside it {tokenizer.vocabulary} ids"
        raise DataError(str(where), what, REMEDY)
    if isinstance(config, EncoderDecoder) and config.start == tokenizer.end:
        config = replace(config, start=None)
    with Theirs(folder, family.prefix, family.spelt) as theirs:
        theirs.stand_in(family.copies)
        config = config if family.seen is None else replace(config, **family.seen(config, theirs))
        source = _checked(theirs, family, config)
        with made(run) as place:
            tokenizer.save(place / TOKENIZER)
            kinds = {name: (torch.float32, shape) for name, shape in _shapes(config).items()}
            write(config, place, kinds, lambda name: source(name).float())
    return config


def _shapes(config: Any) -> dict[str, torch.Size]:
    """The names and shapes of a network's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in config.build().state_dict().items()}


def _write(place: Path, family: Family, config: Transformer, tensor: Callable[[str], Tensor], part_bytes: int) -> None:
    """Write the weights of an export, in one file or in several with an index."""
    shapes = _shapes(config)
    parts: list[list[Link]] = [[]]
    size = 0
    for link in family.written_links(config, shapes):
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


def _out(link: Link, config: Transformer, tensor: Callable[[str], Tensor]) -> Tensor:
    """A tensor of theirs."""
    if link.zeros is not None:
        return torch.zeros(link.zeros)
    parts = [tensor(name) if link.expert is None else tensor(name)[link.expert] for name in link.ours]
    return link.form.theirs(parts, config)


def _checked(theirs: Theirs, family: Family, config: Transformer) -> Callable[[str], Tensor]:
    """What reads our tensors from theirs, once all of theirs have been looked at.

    Raises:
        CheckpointError: one is missing, is too much, or says what no network here can.
    """
    shapes = _shapes(config)
    links = list(family.links(config, shapes))
    copies = family.all_copies(config)
    theirs.stand_in(copies)
    for copy, whose in copies.items():
        both = {copy, whose} <= theirs.names and not family.says_nothing(copy)
        if both and not torch.equal(theirs.tensor(copy), theirs.tensor(whose)):
            said, remedy = f"is {whose} in transformers", REMEDY
            if copy == family.head:
                said, remedy = f"{CONFIG} says tie_word_embeddings", "set tie_word_embeddings to false if it is meant"
            raise CheckpointError(theirs.path(copy), f"holds its own {copy}, and {said}", remedy)
    left = sorted(theirs.names - {link.theirs for link in links} - copies.keys())
    left = [name for name in left if not family.says_nothing(name)]
    if left:
        raise CheckpointError(theirs.path(left[0]), f"holds {left[0]}, which {CONFIG} does not speak of", REMEDY)
    places: dict[str, list[tuple[Link, int]]] = {}
    for link in links:
        if link.theirs not in theirs.names:
            if link.zeros is not None:
                continue
            what = f"holds another model's weights: there is no {link.theirs}"
            raise CheckpointError(theirs.path(None), what, REMEDY)
        if link.zeros is not None and theirs.tensor(link.theirs).any():
            what = f"holds a {link.theirs} that is not zero, and {CONFIG} says that there are no biases"
            raise CheckpointError(theirs.path(link.theirs), what, REMEDY)
        for number, ours in enumerate(link.ours):
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
        known = _pieces(json.loads(description(ours, str(folder / OWN)).text))
        found = _pieces(read_json(path, REMEDY)) if path.is_file() else known
        if known == {piece: i for piece, i in found.items() if i < ours.vocabulary or not is_name(piece)}:
            return ours
    said = read_json(folder / SETTINGS, REMEDY) if (folder / SETTINGS).is_file() else None
    if isinstance(said, dict) and said.get("tokenizer_class") == "ByT5Tokenizer" and not path.is_file():
        return byt5(str(folder / SETTINGS))
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
