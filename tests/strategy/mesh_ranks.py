"""One rank of those that the tests of meshes start.

mesh_ranks.py RUNS: trains by each of the configs in RUNS/recipes.pickle in turn, in one process group. One process has
composed them for all: Hydra takes as long for it as these runs take to train.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from mesh_runs import asked, follow

runs = Path(sys.argv[1])
torch.set_num_threads(1)
for recipe in pickle.loads((runs / "recipes.pickle").read_bytes()):
    follow(recipe)
asked(runs)
torch.distributed.destroy_process_group()
