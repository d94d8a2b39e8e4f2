"""Tokens a second that a network writes: ours against transformers' `generate` on the same weights exported.

    python benchmarks/generate.py              # about three minutes on two cores

The network is that of evaluate.py. Both go on greedily from prompts of 32 tokens, 128 tokens each, with a cache, in
fp32, for one prompt and for 16; rounds alternate, A B A B. Ours is measured as it is and with a compiled step, whose
compilation is told apart; transformers as `generate` is without further words, which compiles nothing on a CPU. Each
line is one figure in JSON: medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers
import torch
from exported import network

from groundup.generation import Options, write
from groundup.model.load import load
from groundup.tokenizer.load import load as load_tokenizer

BAR = 1.5
PROMPT, NEW, BATCHES = 32, 128, (1, 16)


def main(arguments: list[str]) -> int:
    """Measure both batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a smaller network and fewer tokens: for tests")
    options = parser.parse_args(arguments)
    if peers.absent(["transformers"]):
        peers.emit(benchmark="generate", skipped="transformers is not installed")
        return 0
    new = 8 if options.tiny else NEW
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as place:
        run = network(Path(place), options.tiny)
        import transformers

        net, tokenizer = load(run), load_tokenizer(run / "tokenizer")
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(Path(place) / "hf").eval()
        for batch in BATCHES:
            draw = torch.Generator().manual_seed(batch)
            prompts = torch.randint(0, tokenizer.vocabulary - 1, (batch, PROMPT), generator=draw)
            begin = time.perf_counter()
            our_rate(net, tokenizer, prompts, new, compiled=True)
            compiling = time.perf_counter() - begin
            rates: dict[str, list[float]] = {"compiled": [], "ours": [], "transformers": []}
            for number in range(options.rounds + 1):  # the first is to warm up
                for name, value in (
                    ("compiled", our_rate(net, tokenizer, prompts, new, compiled=True)),
                    ("ours", our_rate(net, tokenizer, prompts, new)),
                    ("transformers", their_rate(theirs, prompts, new)),
                ):
                    if number:
                        rates[name].append(value)
            for name in ("compiled", "ours"):
                ratio = statistics.median(a / b for a, b in zip(rates[name], rates["transformers"], strict=True))
                peers.emit(
                    benchmark="generate",
                    figure=f"tokens a second, batch {batch}, {'compiled' if name == 'compiled' else 'as it is'}",
                    value=round(statistics.median(rates[name]), 1),
                    transformers=round(statistics.median(rates["transformers"]), 1),
                    ratio=round(ratio, 2),
                    rounds=options.rounds,
                    machine=peers.machine(),
                    **(
                        {"bar": BAR, "holds": ratio >= BAR, "compiling_s": round(compiling, 1)}
                        if name == "compiled"
                        else {}
                    ),
                )
    return 0


def our_rate(net: Any, tokenizer: Any, prompts: torch.Tensor, new: int, compiled: bool = False) -> float:
    """Tokens a second of ours; a row that ends early counts as what it wrote."""
    begin = time.perf_counter()
    texts = write(net, _Ids(tokenizer), prompts.tolist(), Options(tokens=new, temperature=0, compile=compiled))
    return sum(len(text.split()) for text in texts) / (time.perf_counter() - begin)


class _Ids:
    """A tokenizer whose text is its ids, so that tokens can be counted."""

    def __init__(self, tokenizer: Any) -> None:
        self.vocabulary, self.end = tokenizer.vocabulary, tokenizer.end

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@torch.no_grad()
def their_rate(net: Any, prompts: torch.Tensor, new: int) -> float:
    """Tokens a second of transformers, each row to its full length."""
    begin = time.perf_counter()
    ones = torch.ones_like(prompts)
    found = net.generate(prompts, attention_mask=ones, min_new_tokens=new, max_new_tokens=new, do_sample=False)
    return found[:, prompts.shape[1] :].numel() / (time.perf_counter() - begin)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
