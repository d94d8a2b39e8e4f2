"""Which documents are held out, decided by their text alone; it does not know the order or the source they come in."""

from __future__ import annotations

import hashlib

from groundup.core.keyed import derive

TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)


def fingerprint(text: str) -> str:
    """A hash of a text alone, 32 hexadecimal digits: equal texts are equal wherever they stand."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def side(fingerprint: str, seed: int, fraction: float) -> str:
    """`held_out` for about `fraction` of all texts, `train` for the others.

    The same text falls on the same side whatever stands around it, so a copy cannot be trained on and tested on at
    once; with a larger fraction those held out before still are.
    """
    return HELD_OUT if derive(seed, "held-out", fingerprint) < fraction * 2.0**64 else TRAIN
