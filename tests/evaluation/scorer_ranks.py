"""What the tests of scores run as ranks: requests answered by a whole network, and by it laid out over the ranks.

scorer_ranks.py FOLDER: rank r writes what it was answered in each layout to FOLDER/answers-<world>-<r>.pt.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import distributed, nn

sys.path.insert(0, str(Path(__file__).parent))

import conftest
import groundup.strategy.mesh_config  # noqa: F401  # registers the layouts
from groundup.core import ranks
from groundup.core.config import from_dict
from groundup.evaluation.scorer import Scorer
from groundup.generation import Options
from groundup.tokenizer.byte import Bytes

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "copies": {"kind": "ddp"},
        "tensor 2": {"kind": "tensor"},
        "data 2, in parts": {"kind": "fsdp"},
    },
    4: {
        "data 2 x tensor 2": {"kind": "tensor", "ranks": 2},
        "data 2 x tensor 2, in parts": {"kind": "mesh", "tensor": 2, "shard": True},
        "data 2 x context 2": {"kind": "context", "ranks": 2},
    },
}
MODEL = {**conftest.SMALL, "init": "gaussian"}
PROMPTS = [[1, 2, 3], list(range(40)), [7], [9, 9]]


def requests(number: int = 40, longest: int = 60) -> list[tuple[list[int], list[int]]]:
    """Questions with one to four continuations each, some asked twice."""
    draw = random.Random(0)
    found = []
    for _ in range(number):
        context = [draw.randrange(256) for _ in range(draw.randint(1, longest))]
        answers = draw.randint(1, 4)
        found += [(context, [draw.randrange(256) for _ in range(draw.randint(1, 9))]) for _ in range(answers)]
    return [*found, *found[:5]]


def begun(strategy: Any = None) -> Any:
    """The network in float64, the same in every layout."""
    with torch.device("meta"):
        nets = nn.ModuleDict({"model": from_dict("model", MODEL).build().double()})
    if strategy is None:
        nets.to_empty(device="cpu")
    else:
        strategy.spread(nets)
    torch.manual_seed(0)
    nets["model"].begin()
    return nets["model"].eval()


def answers(net: Any, share: tuple[int, int] = (0, 1)) -> tuple[list[Any], list[str], int]:
    """Likelihoods, texts, and how many forward passes of likelihoods this rank did."""
    passes = []
    asked = net.likelihoods
    net.likelihoods = lambda *given: passes.append(1) or asked(*given)
    scorer = Scorer(net, Bytes(), 128, share=share)
    scored = scorer.score(requests(12, 30))
    texts = scorer.write([(prompt, Options(tokens=4, temperature=0.7, seed=3)) for prompt in PROMPTS])
    return scored, texts, len(passes)


def main(folder: Path) -> None:
    found = {}
    for name, options in LAYOUTS[ranks.world()].items():
        strategy = from_dict("strategy", options).build("cpu", ranks.local_world())
        strategy.accelerator = CPUAccelerator()
        strategy.setup_environment()
        found[name] = answers(begun(strategy), strategy.share)
    torch.save(found, folder / f"answers-{ranks.world()}-{ranks.rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
