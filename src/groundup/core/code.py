"""Which code runs here, as a hash of its source: the same wherever it stands, with or without version control."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path


def code_digest(packages: Iterable[str] = ()) -> str:
    """Sixteen hexadecimal digits that stand for every Python file of groundup and of further imported packages.

    Args:
        packages: names of modules that were imported; of those that are no files, the name alone counts.
    """
    parts = [_digest(name) for name in ("groundup", *sorted(packages))]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


@functools.cache
def _digest(name: str) -> str:
    found = hashlib.sha256(name.encode())
    module = sys.modules.get(name)
    places = [Path(place) for place in getattr(module, "__path__", [])]
    single = getattr(module, "__file__", None)
    files = [(file.relative_to(place), file) for place in places for file in place.rglob("*.py")]
    if not places and single is not None:
        files = [(Path(name), Path(single))]
    for relative, file in sorted(files):
        content = file.read_bytes()
        found.update(f"{relative.as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]
