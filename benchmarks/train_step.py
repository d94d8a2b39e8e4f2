"""One training step on a CPU: groundup against litgpt and transformers, and all against the machine's matrix rate.

    python benchmarks/train_step.py                 # about six minutes, most of it compilation
    python benchmarks/train_step.py --same-memory   # the peers get groundup's memory settings too

The decoder has 6 layers of width 384 with 6 heads, context 256 and a vocabulary of 8,192; 16 windows a step,
compiled, fused AdamW. Precision is bf16 by autocast where the processor multiplies bf16 matrices itself; elsewhere it
is fp32, since torch emulates bf16 there at a hundredth of the speed, and nobody would train so. litgpt is its own
default block (Pythia's), transformers its Llama, which is faster here than its GPT-2; all have the same number of
matrix parameters, and hence of FLOPs: 6 per matrix parameter with the output head and without the embedding look-up,
plus 12 L H C T for attention (PaLM, appendix B). Each runs in a process of its own, which waits while another one
works; rounds alternate A B C A B C, with a 2048 x 2048 x 2048 product of the same precision beside every row. The
bars are meant for bf16. Each line is one figure in JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY, BATCH = 6, 384, 6, 256, 8192, 16
FLOPS_PER_TOKEN = 6 * (12 * LAYERS * WIDTH**2 + VOCABULARY * WIDTH) + 12 * LAYERS * WIDTH * CONTEXT
CONTESTANTS = ("groundup", "litgpt", "transformers")
BARS = {"litgpt": 1.3, "transformers": 1.3}
SHARE_BAR = 0.7
SQUARE = 2048


def groundup() -> tuple[Any, Callable[[Any, Any], Any]]:
    """Our default decoder."""
    from groundup.model.config import Decoder

    net = Decoder(layers=LAYERS, width=WIDTH, heads=HEADS, context=CONTEXT, vocabulary=VOCABULARY).build()
    net.compile_(dynamic=False)
    return net, lambda tokens, targets: net(tokens, targets).mean()


def litgpt() -> tuple[Any, Callable[[Any, Any], Any]]:
    """litgpt's GPT with the loss of its own pretraining."""
    import litgpt as peer
    import torch
    from litgpt.utils import chunked_cross_entropy

    config = peer.Config(
        block_size=CONTEXT,
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        intermediate_size=4 * WIDTH,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
    )
    net = peer.GPT(config)
    compiled = torch.compile(net, dynamic=False)
    return net, lambda tokens, targets: chunked_cross_entropy(compiled(tokens), targets, chunk_size=0)


def transformers() -> tuple[Any, Callable[[Any, Any], Any]]:
    """transformers' Llama with its own loss; it shifts the labels itself."""
    import torch
    import transformers as peer

    config = peer.LlamaConfig(
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        vocab_size=VOCABULARY,
        intermediate_size=8 * WIDTH // 3,
        use_cache=False,
    )
    net = peer.LlamaForCausalLM(config)
    compiled = torch.compile(net, dynamic=False)
    return net, lambda tokens, targets: compiled(input_ids=tokens, labels=targets).loss


def work(name: str, threads: int, keep: bool, precision: str) -> None:
    """Be one contestant: answer each line `steps matrix-products` on stdin by one line of seconds on stdout."""
    if keep:
        from groundup.core.memory import keep_freed_memory

        keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, loss = globals()[name]()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    tokens, targets = torch.randint(0, VOCABULARY, (2, BATCH, CONTEXT)).unbind()
    bf16 = precision == "bf16"
    square = torch.randn(SQUARE, SQUARE).to(torch.bfloat16 if bf16 else torch.float32)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(tokens, targets)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        steps, products = map(int, line.split())
        seconds = {"step": timed(step, steps), "product": timed(lambda: square @ square, products)}
        print(json.dumps(seconds), flush=True)


def timed(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


class Worker:
    """A contestant in its own process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        keep = name == "groundup" or options.same_memory
        command = [sys.executable, __file__, "--worker", name, "--threads", str(options.threads)]
        command += ["--precision", options.precision, *(["--keep"] if keep else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name

    def line(self) -> str:
        """The next line it prints.

        Raises:
            RuntimeError: it has died.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return line

    def measure(self, steps: int) -> tuple[float, float]:
        """Tokens per second and the matrix rate in FLOP/s beside it, medians of `steps`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps} {2 * steps}\n")
        self.process.stdin.flush()
        seconds = json.loads(self.line())
        rate = 2 * SQUARE**3 / statistics.median(seconds["product"])
        return BATCH * CONTEXT / statistics.median(seconds["step"]), rate


def main() -> None:
    """Compile one after the other, then measure in turn, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: as train.py's")
    parser.add_argument("--same-memory", action="store_true", help="peers get groundup's memory settings too")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.threads, options.keep, options.precision)
        return
    import peers  # imports torch, which a worker must not do before its memory is set up

    if options.precision == "auto":
        options.precision = "bf16" if peers.bf16_is_native() else "fp32"
    workers = []
    for name in options.only:
        workers.append(Worker(name, options))
        workers[-1].line()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for worker in workers:
            rows[worker.name].append(worker.measure(options.steps))
    for worker in workers:
        worker.process.terminate()
    report(rows, options, peers.machine())


def report(rows: dict[str, list[tuple[float, float]]], options: argparse.Namespace, machine: str) -> None:
    """Print medians over rounds; ratios and shares are taken within a round."""
    common = {"benchmark": "train_step", "precision": options.precision, "rounds": options.rounds, "machine": machine}
    if options.same_memory:
        common["peers"] = "with groundup's memory settings"
    for name, pairs in rows.items():
        share = statistics.median(FLOPS_PER_TOKEN * speed / rate for speed, rate in pairs)
        figures = {
            "tokens_per_second": round(statistics.median(speed for speed, _ in pairs)),
            "matrix_tflops": round(statistics.median(rate for _, rate in pairs) / 1e12, 3),
            "share_of_matrix_rate": round(share, 3),
        }
        if name == "groundup":
            figures["bar"] = SHARE_BAR
        print(json.dumps({**common, "contestant": name, **figures}), flush=True)
    for name, bar in BARS.items():
        if name in rows and "groundup" in rows:
            ratios = sorted(ours / theirs for (ours, _), (theirs, _) in zip(rows["groundup"], rows[name], strict=True))
            figures = {"ratio": round(statistics.median(ratios), 3), "least": round(ratios[0], 3), "bar": bar}
            print(json.dumps({**common, "contestant": "groundup", "against": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
