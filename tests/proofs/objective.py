"""Claims of the objectives that hide a part of a text: what they learn comes from both sides of it."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.core.config import from_dict
from groundup.data.opening import Opened
from groundup.trainer import segments
from groundup.trainer.opening import open_run

ROOT = Path(__file__).resolve().parents[2]
SPAN, WINDOWS, ROWS = 3, 2048, 64
"""Tokens that are hidden in each window that is asked about, how many are, and how many at once."""

STACKS = ["model=encoder_decoder", "model.layers=1", "model.encoder_layers=2", "model.width=128", "model.heads=2"]
STACKS += ["data.context=32", "data.batch_tokens=8192", "data.micro_batch=256"]
KINDS: dict[str, list[str]] = {
    "masked": ["objective=masked", "model=encoder", "model.layers=4", "model.width=192", "model.heads=3"],
    "span": ["objective=span", *STACKS],
    "denoise": ["objective=denoise", "objective.permute=false", *STACKS, "model.positions=learned"],
}
"""Overrides of the default run; two stacks learn to look across in short windows first."""
TOKENS = {"masked": 2_457_600, "span": 14_745_600, "denoise": 8_192_000}

Asked = tuple[dict[str, Tensor], Tensor]
"""What a network reads, and which of its positions are asked about, (B, T) bool."""


@functools.cache
def place() -> Path:
    """A folder with the shards of the embedded corpus."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    subprocess.run(
        [sys.executable, "prepare.py", f"path={folder}/data"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return folder


def trained(kind: str) -> Path:
    """The folder of a run of this kind."""
    runs = place() / "runs"
    train = [f"data.path={place()}/data", f"runs={runs}", f"name={kind}", f"tokens={TOKENS[kind]}"]
    train += ["callback=[checkpoint]", "trainer.validate_every=null", "data.held_out_tokens=65536", *KINDS[kind]]
    subprocess.run([sys.executable, "train.py", *train], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (run,) = (runs / kind).iterdir()
    return run


def windows(data: Any) -> Tensor:
    """Held-out windows of one document each, (N, T), evenly spread."""
    opened = Opened(data, "size")
    end = opened.manifest.tokenizer.end
    found = []
    for source in opened.held_out():
        every = np.arange((source.tokens - 1) // data.context, dtype=np.int64)
        rows = source.windows(every, data.context)[:, : data.context].astype(np.int64)
        found.append(rows[(rows[:, 1:] != end).all(axis=1)])
    whole = np.concatenate(found)
    chosen = np.linspace(0, len(whole) - 1, min(WINDOWS, len(whole))).astype(np.int64)
    return torch.from_numpy(whole[chosen])


def hidden_in_place(tokens_BT: Tensor, begins: list[int], mask: int, ahead: bool) -> Asked:
    """A masked model's: the first token of each span is hidden; without `ahead`, the rest is another document."""
    places_T = torch.arange(tokens_BT.shape[1])
    begins_B1 = torch.tensor(begins)[:, None]
    asked_BT = places_T == begins_B1
    documents_BT = torch.zeros_like(tokens_BT) if ahead else (places_T > begins_B1).long()
    return {"tokens_BT": tokens_BT.masked_fill(asked_BT, mask), "documents_BT": documents_BT}, asked_BT


def written(tokens_BT: Tensor, begins: list[int], ahead: bool, stands: int, end: int, whole: bool) -> Asked:
    """A decoder's, whose source has one id instead of each span.

    Args:
        tokens_BT: the text.
        begins: where each row's span begins.
        ahead: whether what follows the span is seen.
        stands: the id that stands for the span.
        end: what the decoder begins with.
        whole: the decoder writes all of the text, else `stands` and the span.
    """
    sources, seen, read, asked = [], [], [], []
    for row, begin in zip(tokens_BT.tolist(), begins, strict=True):
        span, rest = row[begin : begin + SPAN], [*row[begin + SPAN :], end]
        sources.append([*row[:begin], stands, *rest])
        seen.append([0] * (begin + 1) + [0 if ahead else -1] * len(rest))
        target = row if whole else [stands, *span]
        first = begin if whole else 1
        read.append([end, *target[:-1]])
        asked.append([first <= number < first + SPAN for number in range(len(target))])
    shown = {"tokens_BT": read, "documents_BT": [[0] * len(row) for row in read]}
    shown |= {"source_BS": sources, "source_documents_BS": seen}
    return {name: torch.tensor(value) for name, value in shown.items()}, torch.tensor(asked)


def asks(kind: str, vocabulary: int, extra: int, end: int) -> Callable[[Tensor, list[int], bool], Asked]:
    """How a network of a kind is asked, by the rules that its objective states."""
    if kind == "masked":
        return lambda tokens, begins, ahead: hidden_in_place(tokens, begins, vocabulary, ahead)
    stands = vocabulary if kind == "denoise" else vocabulary + extra - 1
    return lambda tokens, begins, ahead: written(tokens, begins, ahead, stands, end, kind == "denoise")


@torch.no_grad()
def accuracies(kind: str) -> tuple[float, float, int]:
    """Shares of hidden tokens told right, with all around them and without what follows, and how many there are."""
    run = trained(kind)
    opened = open_run(run, lambda line: print(line, file=sys.stderr))
    tokenizer, net = opened.tokenizer, opened.net
    ask = asks(kind, tokenizer.vocabulary, opened.objective.extra_ids, tokenizer.end)
    texts = windows(from_dict("data", segments.read(run)[0]["data"]))
    draw = np.random.default_rng(0)
    right, asked = [0, 0], 0
    for start in range(0, len(texts), ROWS):
        rows = texts[start : start + ROWS, : texts.shape[1] - SPAN]  # a source may be a few ids longer than its text
        quarter = rows.shape[1] // 4
        begins = draw.integers(quarter, rows.shape[1] - quarter - SPAN, len(rows)).tolist()
        gold = torch.stack([row[begin : begin + SPAN] for row, begin in zip(rows, begins, strict=True)])
        gold = gold[:, :1] if kind == "masked" else gold
        for number, ahead in enumerate((True, False)):
            shown, where_BT = ask(rows, begins, ahead)
            best_BT = net(**shown)[..., : tokenizer.vocabulary].argmax(dim=-1)
            right[number] += int((best_BT[where_BT].view_as(gold) == gold).sum())
        asked += gold.numel()
    print(f"{kind}: {right[0] / asked:.4f} and {right[1] / asked:.4f} without what follows", file=sys.stderr)
    return right[0] / asked, right[1] / asked, asked


def gain(kind: str) -> tuple[float, int]:
    """The ratio of the two accuracies."""
    both, left, asked = accuracies(kind)
    return both / left, asked


def gain_of_masked() -> tuple[float, int]:
    """An encoder, tokens hidden in place."""
    return gain("masked")


def gain_of_span() -> tuple[float, int]:
    """An encoder-decoder, spans behind sentinels."""
    return gain("span")


def gain_of_denoise() -> tuple[float, int]:
    """An encoder-decoder, the whole text written again."""
    return gain("denoise")
