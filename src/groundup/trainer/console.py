"""Lines for a person at the terminal, from rank 0 alone."""

from __future__ import annotations

from groundup.core import ranks


def say(text: str) -> None:
    """Print a line on rank 0, at once."""
    if ranks.rank() == 0:
        print(text, flush=True)
