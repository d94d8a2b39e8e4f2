"""How long saving a checkpoint holds training up: written while training waits, and beside it.

    python benchmarks/save.py                          # 100M parameters, about three minutes, 4 GB of disk and memory
    python benchmarks/save.py --millions 10 --rounds 2

The state is a decoder's weights and two moments for each in fp32, as AdamW has them; one process, on a CPU. A round
saves it once in each way, into the same folder, each time with every byte synced: `waits` is what
`asynchronous=false` does, `beside` the default, `torch` is `torch.save` of the same tensors and one fsync, which
hashes nothing. `blocked_seconds` is how long the call takes, `written_seconds` how long until the checkpoint is
complete. The first save beside training also gets its memory from the system and is told apart. While a checkpoint is
written beside it, a product of two matrices is computed over and over, as training would: `slower` is how much longer
each takes than without. Medians over the rounds; each line is one figure in JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from groundup.callback.writing import Request, Writer
from groundup.core import checkpoint

BAR = 0.15
"""The largest share of a save that waits which one beside training may block."""

WIDTH, VOCABULARY, SQUARE = 768, 32768, 1024


def state(millions: float) -> dict[str, torch.Tensor]:
    """Weights and moments of so many million parameters or a few more, in the shapes of a decoder's."""
    shapes = {"embed": (VOCABULARY, WIDTH)} if millions > 30 else {"embed": (1024, WIDTH)}
    left = int(millions * 1e6) - shapes["embed"][0] * WIDTH
    for number in range(-(-left // (12 * WIDTH * WIDTH))):
        each = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in each.items()}
    found = {}
    for name, shape in shapes.items():
        found[f"nets/model.{name}"] = torch.randn(shape)
        for moment in ("exp_avg", "exp_avg_sq"):
            found[f"optimizer/model.{name}/{moment}"] = torch.randn(shape)
    return found


def product() -> float:
    """Seconds a product of two matrices takes."""
    a = torch.ones(SQUARE, SQUARE)
    began = time.perf_counter()
    a @ a
    return time.perf_counter() - began


def saved(writer: Writer, run: Path, step: int, tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Blocked and written seconds of a save, and the median product meanwhile."""
    began, products = time.perf_counter(), []

    def retire() -> None:
        checkpoint.prune(run, lambda steps: checkpoint.outdated(steps, step, 1, ()))

    writer.save(Request(run, step, tensors, {}, retire))
    blocked = time.perf_counter() - began
    while writer.writing:
        products.append(product())
    writer.wait()
    found = {"blocked_seconds": blocked, "written_seconds": time.perf_counter() - began}
    return found | ({"product": statistics.median(products)} if products else {})


def plain(path: Path, tensors: dict[str, torch.Tensor]) -> float:
    """Seconds `torch.save` takes, with its bytes on disk."""
    began = time.perf_counter()
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def tell(figure: str, value: float, **more: object) -> None:
    """One line."""
    print(json.dumps({"figure": figure, "value": value, **more}), flush=True)


def main(millions: float, rounds: int, folder: Path) -> float:
    """Measure, tell, and give the share that is held against the bar."""
    tensors = state(millions)
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("nets/"))
    waits, beside = Writer(asynchronous=False, alone=True), Writer(asynchronous=True, alone=True)
    first = saved(beside, folder, 1, tensors)
    alone = statistics.median(product() for _ in range(20))
    rows: dict[str, list[dict[str, float]]] = {"waits": [], "beside": []}
    saves: list[float] = []
    for number in range(rounds):
        rows["waits"].append(saved(waits, folder, 2 * number + 2, tensors))
        rows["beside"].append(saved(beside, folder, 2 * number + 3, tensors))
        saves.append(plain(folder / "plain.pt", tensors))

    def median(which: str, key: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(key(row) for row in rows[which])

    where = {"parameters": numbers, "bytes": sum(tensor.nbytes for tensor in tensors.values()), "rounds": rounds}
    blocked = {which: median(which, lambda row: row["blocked_seconds"]) for which in rows}
    share = blocked["beside"] / blocked["waits"]
    tell("waits_blocked_seconds", blocked["waits"], **where)
    tell("beside_blocked_seconds", blocked["beside"], **where)
    tell("beside_first_blocked_seconds", first["blocked_seconds"], **where)
    tell("beside_written_seconds", median("beside", lambda row: row["written_seconds"]), **where)
    tell("torch_save_seconds", statistics.median(saves), **where)
    tell("share_of_torch_save", blocked["beside"] / statistics.median(saves), **where)
    tell("slower", median("beside", lambda row: row.get("product", alone)) / alone, threads=torch.get_num_threads())
    tell("memory_bytes", float(beside.memory), **where)
    tell("share", share, bar=BAR, **where)
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=100.0, help="parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; without it a temporary one")
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="groundup-save-", dir=asked.folder))
    try:
        main(asked.millions, asked.rounds, place)
    finally:
        shutil.rmtree(place)
