"""The input of training: groundup's stream against litdata's, in tokens a second.

    python benchmarks/input.py              # about a minute

A corpus of random tokens is written once in the form of each; then both deliver shuffled batches of 16 windows of
1,024 tokens, in one process and with two workers, in rounds that alternate A B A B. litdata is at its best here: int32
tokens, TokensLoader, no compression. `steps` are what a model takes, tokens and targets in int64 (litdata's batches
with the lines of litgpt's training loop); `rows` are the 1,025 tokens of each window as they are stored; `documents`
has document numbers and positions besides, which litdata does not offer. The bar is on what litdata itself yields:
rows in one process, and anything from workers. The process keeps freed memory, as train.py's does. Each line is one
figure in JSON, medians over the rounds. The last one puts the time of a step of the default run's shape beside the
shortest time in which this machine's matrix rate, measured in the same run, could compute that step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from numpy.typing import NDArray

from groundup.core.memory import keep_freed_memory
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.data.module import StreamModule
from groundup.model import count
from groundup.model.config import Decoder
from groundup.shard.manifest import Holding, Manifest, Vocabulary
from groundup.shard.writer import Writer

CONTEXT, ROWS, VOCABULARY, END = 1024, 16, 32_000, 0
DOCUMENT, PART = 800, 64
"""Tokens of a document, and documents made at a time."""
BAR = 5.0
SHARE_BAR = 0.01


def documents(part: int) -> Iterator[NDArray[np.int64]]:
    """The documents of a part of the corpus."""
    draw = np.random.default_rng(part)
    for _ in range(PART):
        yield draw.integers(1, VOCABULARY, DOCUMENT)


def litdata_part(part: int) -> Iterator[torch.Tensor]:
    """A part of the corpus as litdata stores it."""
    for ids in documents(part):
        yield torch.from_numpy(np.append(ids, END).astype(np.int32))


def write_shards(folder: Path, parts: int) -> None:
    """The corpus as groundup stores it, in two sources."""
    splits: dict[str, dict[str, Holding]] = {"train": {}}
    for name, own in (("large", range(parts * 3 // 4)), ("small", range(parts * 3 // 4, parts))):
        writer = Writer(folder, "train", name, "uint16", vocabulary=VOCABULARY, end=END)
        for part in own:
            for ids in documents(part):
                writer.add(ids, 4 * ids.size, {"part": part})
        splits["train"][name] = Holding.of(writer.close())
    Manifest(Vocabulary("random", VOCABULARY, END, "uint16"), splits).write(folder)


def write_litdata(folder: Path, parts: int) -> None:
    """The corpus as litdata stores it."""
    from litdata import TokensLoader, optimize

    optimize(
        fn=litdata_part,
        inputs=list(range(parts)),
        output_dir=str(folder),
        num_workers=1,
        chunk_bytes="64MB",
        item_loader=TokensLoader(CONTEXT + 1),
    )


def module(folder: Path, workers: int, **options: Any) -> StreamModule:
    """Our module: steps of one micro-batch."""
    shape = {"context": CONTEXT, "batch_tokens": CONTEXT * ROWS, "micro_batch": ROWS, "document_mask": False}
    config = Shards(path=str(folder), workers=workers, verify="size", **{**shape, **options})
    return StreamModule(config, 0, Progress(), 1 << 40)


def our_steps(folder: Path, workers: int, **options: Any) -> Iterator[Any]:
    """What our loader yields."""
    yield from module(folder, workers, **options).train_dataloader()


def our_rows(folder: Path) -> Iterator[Any]:
    """The windows that our loader makes steps of."""
    steps = module(folder, 0).steps
    for number in range(len(steps)):
        yield steps.parcel(number).rows


def litdata_rows(folder: Path, workers: int) -> Iterator[Any]:
    """What litdata's loader yields, over and over again."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    source = StreamingDataset(str(folder), item_loader=TokensLoader(CONTEXT + 1), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(source, batch_size=ROWS, num_workers=workers)
    while True:
        yield from loader


def litdata_steps(folder: Path, workers: int) -> Iterator[Any]:
    """The same as tokens and targets, as litgpt's training loop makes them."""
    for rows in litdata_rows(folder, workers):
        yield rows[:, :CONTEXT].contiguous().long(), rows[:, 1:].contiguous().long()


class Contestant:
    """A loader that is read in rounds."""

    def __init__(self, batches: Iterator[Any], tokens: int = CONTEXT * ROWS) -> None:
        self._batches, self._tokens = batches, tokens
        self.rates: list[float] = []

    def round(self, seconds: float) -> None:
        """Read for about so long, what was ready beforehand aside, and note the tokens a second."""
        for _ in range(50):
            next(self._batches)
        many, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            next(self._batches)
            many += 1
        self.rates.append(many * self._tokens / spent)

    @property
    def rate(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rates)


def compare(folder: Path, rounds: int, seconds: float, peer: bool) -> None:
    """Figures with 0 and 2 workers, against litdata where it is installed."""
    for workers in (0, 2):
        ours, theirs = folder / "shards", folder / "litdata"
        made = {
            ("steps", "groundup"): Contestant(our_steps(ours, workers)),
            ("documents", "groundup"): Contestant(our_steps(ours, workers, document_mask=True)),
        }
        if workers == 0:
            made["rows", "groundup"] = Contestant(our_rows(ours))
        if peer:
            made["steps", "litdata"] = Contestant(litdata_steps(theirs, workers))
            made["rows", "litdata"] = Contestant(litdata_rows(theirs, workers))
        for _ in range(rounds):
            for contestant in made.values():
                contestant.round(seconds)
        for (what, name), contestant in made.items():
            against = made.get((what, "litdata"))
            ratio = {"over_litdata": round(contestant.rate / against.rate, 2)} if against else {}
            if against and (what == "rows" or workers):
                ratio["bar"] = BAR
            peers.emit(
                figure="input_tokens_per_second",
                of=name,
                what=what,
                workers=workers,
                value=round(contestant.rate),
                rounds=[round(rate) for rate in contestant.rates],
                **(ratio if name == "groundup" else {}),
            )


def default_step(folder: Path, seconds: float) -> None:
    """The time of a step of the default run's shape, as a share of the least that its arithmetic can take."""
    config = Shards(path=str(folder / "shards"))
    options = {"context": config.context, "batch_tokens": config.batch_tokens, "micro_batch": config.micro_batch}
    ours = Contestant(our_steps(folder / "shards", 0, document_mask=True, **options), config.batch_tokens)
    for _ in range(3):
        ours.round(seconds)
    net = Decoder(layers=4, width=192, heads=3, context=config.context, vocabulary=4096)
    rate = peers.matrix_rate()
    least = config.batch_tokens * count.flops_per_token(net, config.context) / rate
    spent = config.batch_tokens / ours.rate
    peers.emit(
        figure="input_share_of_default_step",
        value=round(spent / least, 5),
        bar=SHARE_BAR,
        step_tokens=config.batch_tokens,
        input_seconds=round(spent, 7),
        least_step_seconds=round(least, 5),
        matrix_flops_per_second=round(rate),
    )


def main() -> None:
    """Write the corpus, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=50e6, help="size of the corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per round and contestant")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    missing = peers.absent(["litdata"])
    if missing:
        peers.emit(absent=missing, note="measured without; `make bench` installs it")
    peers.emit(machine=peers.machine(), context=CONTEXT, rows=ROWS, corpus_tokens=int(given.tokens))
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        folder, parts = Path(place), max(4, int(given.tokens) // (PART * (DOCUMENT + 1)))
        write_shards(folder / "shards", parts)
        if not missing:
            write_litdata(folder / "litdata", parts)
        compare(folder, given.rounds, given.seconds, peer=not missing)
        default_step(folder, given.seconds)


if __name__ == "__main__":
    main()
