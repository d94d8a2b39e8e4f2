"""Random streams named by keys: a draw is a function of a seed and what it is for, so no generator state is saved."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *keys: int | str) -> int:
    """A number in [0, 2**64) that belongs to these keys: the same ones give the same number on any machine.

    The integer 1 and the string "1" are different keys, and so are ("ab",) and ("a", "b").
    """
    parts = [_tagged(key) for key in (seed, *keys)]
    digest = hashlib.blake2b(b"".join(len(part).to_bytes(4, "little") + part for part in parts), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A NumPy generator of the stream that belongs to these keys (Philox, Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys)))


def _tagged(key: int | str) -> bytes:
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    return b"i" + str(int(key)).encode()
