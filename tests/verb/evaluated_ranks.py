"""What the tests of evaluate.py run as ranks: reports in some layouts, and weights read by each rank for itself.

evaluated_ranks.py CASES: reads pairs of a run and overrides from the file, and evaluates so in turn; what each rank
holds of the first run's network goes to `held-<rank>.json` beside the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import distributed, nn

from groundup.core import ranks
from groundup.core.config import from_dict
from groundup.model.parts import held, is_split
from groundup.trainer.opening import open_run

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluate import evaluate


def filled(run: Path) -> dict[str, object]:
    """Whether a network that is spread before it is read is bitwise that of the folder, and what this rank holds."""
    opened = open_run(run, print)
    strategy = from_dict("strategy", {"kind": "fsdp"}).build("cpu", ranks.local_world())
    strategy.accelerator = CPUAccelerator()
    strategy.setup_environment()
    with torch.device("meta"):
        nets = nn.ModuleDict({"model": opened.model.build()})
    strategy.spread(nets)
    opened.fill(nets["model"])
    mine = {name: t.full_tensor() if is_split(t) else t for name, t in nets["model"].state_dict().items()}
    same = all(torch.equal(tensor, opened.net.state_dict()[name]) for name, tensor in mine.items())
    return {"same": same, "share": held(nets.parameters()) / held(opened.net.parameters())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    cases = json.loads(file.read_text())
    for run, overrides in cases:
        evaluate(Path(run), *overrides)
    found = [filled(Path(run)) for run, _ in cases]
    file.with_name(f"held-{ranks.rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
