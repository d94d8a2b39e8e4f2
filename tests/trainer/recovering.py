"""What the tests run as one rank of several: a run that meets with a fault.

recovering.py KEY=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import editing  # noqa: F401  # these register their callbacks
import faults  # noqa: F401
import torch

from groundup.core.config import compose
from groundup.verb.train import Train

if __name__ == "__main__":
    torch.set_num_threads(1)
    config: Train = compose.composed(Path(__file__).resolve().parents[2] / "conf", "train", *sys.argv[1:])
    config.check()
    config.run()
