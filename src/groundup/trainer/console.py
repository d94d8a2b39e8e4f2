"""What a person sees at the terminal: lines of rank 0 alone, and none of Lightning's."""

from __future__ import annotations

import logging
import warnings

from groundup.core import ranks


def say(text: str) -> None:
    """Print a line on rank 0, at once."""
    if ranks.rank() == 0:
        print(text, flush=True)


def quiet() -> None:
    """Keep Lightning's advertisements and remarks on its own code from the terminal; errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)", category=FutureWarning)
