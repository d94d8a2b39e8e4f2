"""What the test of travelling numbers runs on each rank: trainings one after the other, and what they hand over.

travel_ranks.py FOLDER: trains by each config in FOLDER/recipes.pickle in turn, and writes for each, by its name, the
bytes of gradients, weights and positions that were handed to each collective, by dtype, to FOLDER/handed-RANK.json.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import torch
from mesh_runs import follow

from groundup.core import ranks

COLLECTIVES = {
    "all_reduce": ("all_reduce",),
    "reduce_scatter": ("reduce_scatter_single", "reduce_scatter_tensor"),
    "all_gather": ("all_gather_single", "all_gather_into_tensor"),
    "all_to_all": ("all_to_all_single",),
}
"""What torch calls them, of whatever release."""

SCALARS = 16
"""No more numbers than these are sums of losses, counts and norms."""


def spied(kind: str, name: str, handed: Counter[str]) -> None:
    """From here on, count the bytes of all tensors that are handed to a collective."""
    real = getattr(torch.distributed, name)
    place = 0 if kind == "all_reduce" else 1  # behind the tensor for what comes

    def spy(*arguments, **options):
        given = {"input_tensor", "input"} & options.keys()
        tensor = options[given.pop()] if given else arguments[place]
        if tensor.is_floating_point() and tensor.numel() > SCALARS:
            handed[f"{kind} {str(tensor.dtype).removeprefix('torch.')}"] += tensor.numel() * tensor.element_size()
        return real(*arguments, **options)

    setattr(torch.distributed, name, spy)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, handed, found = Path(sys.argv[1]), Counter(), {}
    for kind, names in COLLECTIVES.items():
        for name in names:
            if hasattr(torch.distributed, name):
                spied(kind, name, handed)
    for name, recipe in pickle.loads((folder / "recipes.pickle").read_bytes()).items():
        handed.clear()
        follow(recipe)
        found[name] = dict(handed)
    (folder / f"handed-{ranks.rank()}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
