"""Tensors in a checkpoint folder through torch.distributed.checkpoint; what they mean is not known here."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


def write(tensors: Mapping[str, Tensor], folder: Path, alone: bool) -> None:
    """Write tensors into a folder; all ranks call this together unless one is `alone`."""
    with _quiet():
        save(dict(tensors), checkpoint_id=folder, no_dist=alone)


def read_into(tensors: Mapping[str, Tensor], folder: Path, alone: bool) -> None:
    """Fill tensors, in whatever layout they have, with what stands under their names."""
    with _quiet():
        load(dict(tensors), checkpoint_id=folder, no_dist=alone)


def described(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor in a folder."""
    saved = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in saved.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def read_some(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of these names, whole and on the CPU."""
    kinds = described(folder)
    tensors = {name: torch.empty(kinds[name][0], dtype=kinds[name][1]) for name in names}
    read_into(tensors, folder, alone=True)
    return tensors


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, whole and on the CPU."""
    return read_some(folder, described(folder))


@contextmanager
def _quiet() -> Iterator[None]:
    """Training alone is no mistake that torch need warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
