"""What tests run as ranks: one training, which may end by being asked to stop.

saving_ranks.py OVERRIDE...: exits as train.py does.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import faults  # noqa: F401  # it registers a callback
import torch

from groundup.core.config import compose
from groundup.core.config.verb import tell
from groundup.core.errors import UserError
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")

if __name__ == "__main__":
    torch.set_num_threads(1)
    config: Train = composed("train", *sys.argv[1:])
    config.check()
    try:
        config.run()
    except UserError as error:
        sys.exit(tell(error).exit_code)
    torch.distributed.destroy_process_group()
