"""Measures what a rank computes and exchanges, and whether it is right; what is made of it is not known here.

    python -m groundup.strategy.probe
    torchrun --nproc-per-node=8 -m groundup.strategy.probe

Each rank prints a line of JSON. Over several machines the exchange is that between them.

A product is checked by Freivalds' algorithm (1977): of whole numbers, C = A B if C r = A (B r) for random r of -1 and
1, which takes only products with vectors. A single wrong element is always found, several with probability 1 - 2^-8.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

import torch
from torch import Tensor, distributed

from groundup.core import ranks
from groundup.strategy.meeting import meet

SECONDS = 0.3
"""How long each kind of product is repeated."""

_VECTORS, _BYTES, _TIMES = 8, 1 << 24, 5
_TIMEOUT = timedelta(seconds=60)


def right(left: Tensor, right: Tensor, product: Tensor, generator: torch.Generator) -> bool:
    """Whether a product of matrices of whole numbers is right, seen on the CPU in fp64, which holds them exactly.

    Args:
        left: [M, K], right: [K, N], product: [M, N]; any device and floating type that holds the numbers exactly.
        generator: of the CPU.
    """
    signs = 2.0 * torch.randint(0, 2, (right.shape[1], _VECTORS), generator=generator, dtype=torch.float64) - 1.0
    left, right, product = (matrix.to("cpu", torch.float64) for matrix in (left, right, product))
    return torch.equal(product @ signs, left @ (right @ signs))


def product(device: torch.device, dtype: torch.dtype, size: int, seconds: float = SECONDS) -> tuple[bool, float]:
    """Repeat a product of random whole numbers; whether all results were right, and the best rate in FLOP/s.

    Numbers and the inner side are so small that every type holds each sum exactly, whatever its order.

    Args:
        device: where.
        dtype: of the matrices.
        size: of the outer sides.
        seconds: for how long, beside one product to warm up.
    """
    inner = 256 if dtype == torch.bfloat16 else size
    generator = torch.Generator().manual_seed(time.time_ns() % (1 << 63))
    left, other = (
        torch.randint(-1, 2, shape, generator=generator).to(device, dtype) for shape in ((size, inner), (inner, size))
    )
    sound, best, end = True, 0.0, None
    while end is None or time.perf_counter() < end:
        begun = time.perf_counter()
        found = left @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        best = max(best, 2.0 * size * size * inner / (now - begun)) if end else best
        sound = sound and right(left, other, found, generator)
        end = end or time.perf_counter() + seconds
    return sound, best


def exchange(device: torch.device) -> tuple[bool, float]:
    """All-reduce 16 MiB some times; whether the sums were right, and the bus bandwidth in bytes/s.

    That is the bytes each rank must send by the best algorithm, as nccl-tests count them: 2 (n - 1) / n of the tensor.
    """
    world = distributed.get_world_size()
    best, sound = 0.0, True
    for number in range(_TIMES):
        tensor = torch.full((_BYTES // 4,), float(ranks.rank() + number), device=device)
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * (world - 1) / world * _BYTES / (time.perf_counter() - begun))
        sound = sound and bool((tensor == world * (world - 1) / 2 + world * number).all())
    return sound, best


def main() -> None:
    """Print what this rank finds."""
    torch.backends.cuda.matmul.allow_tf32 = False
    accelerated = torch.cuda.is_available()
    device = torch.device("cuda", ranks.local_rank()) if accelerated else torch.device("cpu")
    found: dict[str, object] = {"rank": ranks.rank(), "node": ranks.node(), "device": "cpu"}
    kinds = {"fp32": (torch.float32, 512)}
    if accelerated:
        torch.cuda.set_device(device)
        found["device"] = torch.cuda.get_device_name(device)
        kinds = {"fp32": (torch.float32, 4096), "bf16": (torch.bfloat16, 8192)}
    for name, (dtype, size) in kinds.items():
        found[f"{name}_right"], found[f"{name}_flops"] = product(device, dtype, size)
    if ranks.world() > 1:
        meet(device, _TIMEOUT)
        found["sum_right"], found["bus_bytes"] = exchange(device)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
