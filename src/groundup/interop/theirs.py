"""The tensors of a folder of Hugging Face's, read one at a time; what they mean is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from groundup.core.errors import CheckpointError, DataError
from groundup.core.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
REMEDY = "give a folder with config.json, model.safetensors and a tokenizer, as `save_pretrained` writes it"


class Theirs:
    """The tensors of a folder: of one file, or of those that an index names; safetensors, or else pickles.

    Pickles are read by torch's loader that takes tensors alone.

    Args:
        folder: as `save_pretrained` writes it.
        prefix: what names may lack in front, as in the first files of GPT-2.
        spelt: ends of names as the first files have them, and as they are looked for.

    Raises:
        CheckpointError: a file is missing or damaged.
        DataError: the index is damaged.
    """

    def __init__(self, folder: Path, prefix: str, spelt: Mapping[str, str]) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._names: dict[str, tuple[str, str]] = {}
        try:
            for file in self._listed():
                self._open(file)
        except BaseException:
            self._stack.close()
            raise
        if prefix and not any(name.startswith(prefix) for name in self._names):
            self._names = {f"{prefix}{name}": place for name, place in self._names.items()}
        for before, now in spelt.items():
            for name in [name for name in self._names if name.endswith(before)]:
                self._names[name.removesuffix(before) + now] = self._names.pop(name)

    def __enter__(self) -> Theirs:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._names)

    def stand_in(self, copies: Mapping[str, str]) -> None:
        """Let tensors that are there stand for those they are copies of, where these are not."""
        for copy, whose in copies.items():
            if copy in self._names and whose not in self._names:
                self._names[whose] = self._names[copy]

    def path(self, name: str | None) -> str:
        """The file that holds a tensor; None: the first."""
        return str(self.folder / (next(iter(self._files)) if name is None else self._names[name][0]))

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name."""
        file, within = self._names[name]
        opened = self._files[file]
        found: Tensor = opened[within] if isinstance(opened, dict) else opened.get_tensor(within)
        return found

    def _listed(self) -> list[str]:
        there = [name for name in (WEIGHTS, INDEX, PICKLED, PICKLED_INDEX) if (self.folder / name).is_file()]
        if not there:
            raise CheckpointError(str(self.folder / WEIGHTS), "is missing", REMEDY)
        if there[0] in (WEIGHTS, PICKLED):
            return [there[0]]
        index: Any = read_json(self.folder / there[0], REMEDY)
        try:
            return sorted({Path(name).name for name in index["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(str(self.folder / there[0]), f"is damaged ({error!r})", REMEDY) from None

    def _open(self, file: str) -> None:
        path = self.folder / file
        try:
            if path.suffix == ".safetensors":
                opened: Any = self._stack.enter_context(safe_open(path, framework="pt"))
                names = list(opened.keys())
            else:
                opened = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                names = [name for name, value in opened.items() if isinstance(value, Tensor)]
        except FileNotFoundError:
            raise CheckpointError(str(path), "is missing", REMEDY) from None
        except Exception as error:  # a pickle may fail in any way
            raise CheckpointError(str(path), f"is damaged or cannot be read ({error})", REMEDY) from None
        self._files[file] = opened
        self._names |= {name: (file, name) for name in names}
