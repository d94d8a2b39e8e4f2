"""Files of safetensors written a tensor at a time; the library's own writer wants all of them in memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.core.files import atomic_file

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Dtypes as the format spells them."""


def stream(path: Path, kinds: Mapping[str, tuple[torch.dtype, torch.Size]], tensor: Callable[[str], Tensor]) -> str:
    """Write a file of tensors, asked for one at a time in the order of their names; it is there whole or not at all.

    The format: the header's length in 8 bytes, a JSON header, then the tensors' bytes one after the other, wider
    dtypes first so that all are aligned (github.com/huggingface/safetensors, README).

    Args:
        path: the file.
        kinds: dtype and shape of each tensor.
        tensor: the tensor of a name, on any device.

    Returns:
        The file's SHA-256 as 64 hexadecimal digits.

    Raises:
        StorageError: it cannot be written.
        ValueError: a tensor is of another dtype or shape than announced.
    """
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    header, end = {}, 0
    for name in order:
        dtype, shape = kinds[name]
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            digest.update(piece)
        for name in order:
            value = tensor(name)
            if (value.dtype, value.shape) != tuple(kinds[name]):
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, and {kinds[name]} was announced")
            raw: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(raw)
            digest.update(raw)
    return digest.hexdigest()
