"""Training speed on this machine's GPU at 124M, 350M and 1.3B parameters, beside transformers and the matrix rate.

    python benchmarks/gpu.py                      # or: make bench-gpu

Needs torch and nothing else of what groundup needs; transformers is measured where it is installed. Every figure comes
from a process of its own, so that one that fails takes no other with it. A step is 131,072 tokens in micro-batches,
each the largest of the list that fits; gradient norm, clipping and a fused AdamW are part of it. Forward passes run in
bf16 under autocast over fp32 weights, everything compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import peers
import torch
from torch import Tensor, nn

from groundup.model import count  # found because importing peers put src on the path
from groundup.model.config import Decoder
from groundup.scaling.hardware import peak_flops

FORMULA = "MFU = tokens/s x (6 N + 12 L D T) / peak; N: matrices with the output head, without embedding look-ups"
VOCABULARY = 32_000
"""Where a preset leaves it to the tokenizer; one that says it gets it rounded up to a multiple of 64."""

SIZES = {"1b": 2048, "gpt2-124m": 1024, "350m": 2048}
"""Presets of conf/model in the order measured, with the context where the preset leaves it to the data."""

SYSTEMS = ("groundup", "transformers")
MICRO_BATCHES = (16, 8, 4, 2, 1)
MICRO_BATCH_TOKENS = 16_384
STEP_TOKENS = 131_072
TINY = Decoder(layers=2, width=64, heads=2, context=64, vocabulary=512)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        step_tokens: tokens of an optimizer step.
        warm_up: steps before the clock starts, compilation in the first.
        steps: fewest steps timed.
        seconds: time spent on them at least, 20 steps at most.
    """

    step_tokens: int = STEP_TOKENS
    warm_up: int = 2
    steps: int = 5
    seconds: float = 8.0


def main(arguments: list[str]) -> int:
    """Measure everything that fits into the time, print a line per figure, and add a dated table to the records."""
    options = parse(arguments)
    if options.one:
        size, system = options.one
        print(json.dumps(measure(shape(size, options.tiny), system, options.device, options.tiny)), flush=True)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here, so there is nothing to measure (--device cpu --tiny tries the script itself)")
        return 0
    print(FORMULA, flush=True)
    deadline = time.monotonic() + 60 * options.minutes
    found = []
    for size in ("tiny",) if options.tiny else options.sizes:
        for system in options.systems:
            row = in_own_process(size, system, options, deadline)
            peers.emit(**row)
            found.append(row)
    measured = [row for row in found if "tokens_per_second" in row]
    if measured and options.device == "cuda":
        print(f"added to {write(found, options.records)}")
    return 0 if any(row["system"] == "groundup" for row in measured) else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="one very small model, few steps, uncompiled: for tests")
    parser.add_argument("--minutes", type=float, default=7.5, help="what does not fit in is skipped, and said to be")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--records", type=Path, default=peers.RECORDS / "gpu.md", help="where the table is added")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "SYSTEM"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def in_own_process(size: str, system: str, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """One figure, or the reason why there is none."""
    title = {"benchmark": "gpu", "size": size, "system": system}
    left = deadline - time.monotonic()
    if system == "transformers" and peers.absent(["transformers"]):
        return {**title, "skipped": "transformers is not installed"}
    if left < 20:
        return {**title, "skipped": f"the {options.minutes:g} minutes are over"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", size, system, "--device", options.device]
    status, printed, complaints = finished([*command, *(["--tiny"] if options.tiny else [])], left)
    if status is None:
        return {**title, "skipped": f"it was not done when the {options.minutes:g} minutes were over"}
    if status:
        reason = (complaints.strip() or "no message").splitlines()[-1]
        return {**title, "skipped": f"it failed: {reason[:300]}"}
    return {**title, **json.loads(printed.strip().splitlines()[-1])}


def finished(command: list[str], seconds: float) -> tuple[int | None, str, str]:
    """Exit status (None: killed, with all it started, after so many seconds), stdout and stderr of a command."""
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=printed, stderr=complaints, env=environment, start_new_session=True)
        status: int | None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # torch's compile workers too
            process.wait()
            status = None
        printed.seek(0)
        complaints.seek(0)
        return status, printed.read(), complaints.read()


def shape(size: str, tiny: bool) -> Decoder:
    """The config of a preset, closed."""
    if tiny:
        return TINY
    config = Decoder(**preset(peers.ROOT / "conf" / "model" / f"{size}.yaml"))
    vocabulary = -(-(config.vocabulary or VOCABULARY) // 64) * 64
    return dataclasses.replace(config, context=config.context or SIZES[size], vocabulary=vocabulary)


def preset(path: Path) -> dict[str, Any]:
    """The values of a preset: a flat `key: scalar` file, read without a YAML library."""
    words = {"null": None, "true": True, "false": False}
    values: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        key, colon, text = line.split("#")[0].rstrip().partition(":")
        text = text.strip().strip("\"'")
        if not colon or key.startswith((" ", "-")) or key == "defaults":
            continue
        values[key] = words[text] if text in words else number(text)
    return values


def number(text: str) -> int | float | str:
    """An int if it is one, else a float, else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def measure(config: Decoder, system: str, device: str, tiny: bool) -> dict[str, Any]:
    """Train on tokens of no meaning with the largest micro-batch that fits; the figures of one row."""
    plan = Plan(step_tokens=4 * 64, warm_up=1, steps=2, seconds=0.0) if tiny else Plan()
    torch.set_float32_matmul_precision("high")
    _, context = config.closed()
    fitting = [rows for rows in MICRO_BATCHES if rows * context <= min(MICRO_BATCH_TOKENS, plan.step_tokens)]
    for rows in fitting:
        try:
            seconds, loss = train(config, system, device, rows, plan, compiled=not tiny)
            break
        except torch.OutOfMemoryError:
            gc.collect()  # the exception that holds the tensors is gone here
            torch.cuda.empty_cache()
            torch._dynamo.reset()
    else:
        raise SystemExit("not even one window fits into memory")
    accumulated = max(1, plan.step_tokens // (rows * context))
    return {
        "parameters": count.parameters(config)["total"],
        "micro_batch": rows,
        "context": context,
        "accumulated": accumulated,
        **rates(config, device, rows * context * accumulated / seconds, tiny),
        "loss": round(loss, 3),
    }


def rates(config: Decoder, device: str, tokens_per_second: float, tiny: bool) -> dict[str, Any]:
    """Tokens/s and what part of the device's peaks, printed and measured now, its model FLOPs make up."""
    flops = tokens_per_second * count.flops_per_token(config)
    on_gpu = device == "cuda"
    peak = peak_flops(torch.cuda.get_device_name(), "bf16") if on_gpu else None
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    matrix = peers.matrix_rate(device, size=256 if tiny else None, seconds=0.1 if tiny else 1.5)
    return {
        "tokens_per_second": round(tokens_per_second),
        "model_tflops": round(flops / 1e12, 3),
        "mfu": None if peak is None else round(flops / peak, 4),
        "peak_tflops": None if peak is None else round(peak / 1e12, 1),
        "matrix_share": round(flops / matrix, 4),
        "matrix_tflops": round(matrix / 1e12, 3),
        "memory_gib": None if memory is None else round(memory, 2),
        "machine": peers.machine(device),
    }


def train(config: Decoder, system: str, device: str, rows: int, plan: Plan, compiled: bool) -> tuple[float, float]:
    """Median seconds of an optimizer step, and the loss of the last one in nats per token.

    Raises:
        torch.OutOfMemoryError: the micro-batch does not fit.
    """
    vocabulary, context = config.closed()
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.device(device):
        net = config.build() if system == "groundup" else peers.transformers_twin(config)
        tokens_BT = torch.randint(vocabulary, (rows, context + 1))
    if system != "groundup":
        check_twin(net, config)
    loss = losses(net, system, compiled)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    accumulated = max(1, plan.step_tokens // (rows * context))
    times: list[float] = []
    while not enough(times, plan):
        begin = time.perf_counter()
        for _ in range(accumulated):
            with torch.autocast(device, torch.bfloat16):
                total = loss(tokens_BT) / accumulated
            total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = total.item() * accumulated
        times.append(time.perf_counter() - begin)
    return statistics.median(times[plan.warm_up :]), last


def check_twin(net: nn.Module, config: Decoder) -> None:
    """End the program if a peer's model does not have the matrices of ours: their FLOPs would not be comparable."""
    _, context = config.closed()
    expected = count.flops_per_token(config) / 6 - 2 * config.layers * config.width * context
    found = peers.matrix_parameters(net)
    if abs(found / expected - 1) > 0.01:
        raise SystemExit(f"the twin has {found} numbers in its matrices and not {expected:.0f}")


def enough(times: list[float], plan: Plan) -> bool:
    """Whether these steps are all that is needed."""
    timed = times[plan.warm_up :]
    return len(timed) >= plan.steps and (sum(timed) >= plan.seconds or len(timed) >= 20)


def losses(net: nn.Module, system: str, compiled: bool) -> Callable[[Tensor], Tensor]:
    """The mean loss of windows (B, T + 1), each system compiled as its users do it, for fixed shapes."""
    if system == "groundup":
        if compiled:
            cast(Any, net).compile_(dynamic=False)
        return lambda tokens_BT: net(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean()
    called = torch.compile(net, dynamic=False) if compiled else net
    return lambda tokens_BT: (
        called(input_ids=tokens_BT[:, :-1].contiguous(), labels=tokens_BT[:, :-1].contiguous()).loss
    )


def write(found: Iterable[dict[str, Any]], path: Path) -> Path:
    """Add a dated table to the record."""
    found = list(found)
    there = next(row["machine"] for row in found if "machine" in row)
    lines = [
        f"\n## {datetime.date.today().isoformat()}: {there}\n",
        f"{FORMULA}. Measured peak: the best bf16 matrix product of the same process.\n",
        "| model | system | micro-batch x context x accumulated | tokens/s | MFU | of measured peak | memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        if "skipped" in row:
            lines.append(f"| {row['size']} | {row['system']} | skipped: {row['skipped']} | | | | |")
            continue
        batch = f"{row['micro_batch']} x {row['context']} x {row['accumulated']}"
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%} of {row['peak_tflops']:g} TFLOP/s"
        share = f"{row['matrix_share']:.1%} of {row['matrix_tflops']:g} TFLOP/s"
        cells = (row["size"], row["system"], batch, f"{row['tokens_per_second']:,}", mfu, share, row["memory_gib"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    path.parent.mkdir(parents=True, exist_ok=True)
    heading = "" if path.exists() else "# Training speed on GPUs (`make bench-gpu`)\n"
    with path.open("a") as file:
        file.write(heading + "\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
