"""Claims of the objectives: more than a bigram is learned, and from both sides of what is hidden where some is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learned import AT_ONCE, bits, place, trained  # noqa: F401  # run.py reads the first
from torch import Tensor

from groundup.core.config import from_dict
from groundup.data.opening import Opened
from groundup.trainer import segments
from groundup.trainer.opening import open_run

WINDOWS, ROWS = 4096, 64
"""Windows that are asked about, and how many at once."""

STACKS = ["model=encoder_decoder", "model.layers=1", "model.encoder_layers=2", "model.width=128", "model.heads=2"]
STACKS += ["data.context=32", "data.batch_tokens=8192", "data.micro_batch=256"]
KINDS: dict[str, list[str]] = {
    "causal": [],
    "prefix": ["objective=prefix", "model.mask=prefix"],
    "masked": ["objective=masked", "model=encoder", "model.layers=4", "model.width=192", "model.heads=3"],
    "span": ["objective=span", *STACKS],
    "denoise": ["objective=denoise", "objective.mean=1", "objective.permute=false", *STACKS, "model.positions=learned"],
}
"""Overrides of the default run; two stacks learn to look across in short windows and from short spans first."""
TOKENS = {"causal": 614_400, "prefix": 614_400, "masked": 1_064_960, "span": 12_288_000, "denoise": 3_276_800}

HIDDEN = {"masked": 1, "span": 3, "denoise": 1}
"""Tokens that are hidden, one behind the other, in each window that is asked about."""

Asked = tuple[dict[str, Tensor], Tensor]
"""What a network reads, and which of its positions are asked about, (B, T) bool."""


def made(kind: str) -> Path:
    """The folder of a run of this kind."""
    run = trained(kind, place(), [f"tokens={TOKENS[kind]}", *KINDS[kind]])
    assert run is not None, f"{kind} did not come to its end"
    return run


def beside_a_bigram(kind: str) -> tuple[float, int]:
    """The held-out loss of a run as a share of that of a bigram of its tokens."""
    bigram, own = bits(made(kind))
    print(f"{kind}: {own:.3f} nats a token, bigram {bigram:.3f}", file=sys.stderr)
    return own / bigram, TOKENS[kind]


def causal_beside_a_bigram() -> tuple[float, int]:
    """The default decoder."""
    return beside_a_bigram("causal")


def prefix_beside_a_bigram() -> tuple[float, int]:
    """The same as a prefix LM."""
    return beside_a_bigram("prefix")


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
    """A masked model's: a token is hidden; without `ahead`, the rest is another document."""
    places_T = torch.arange(tokens_BT.shape[1])
    begins_B1 = torch.tensor(begins)[:, None]
    asked_BT = places_T == begins_B1
    documents_BT = torch.zeros_like(tokens_BT) if ahead else (places_T > begins_B1).long()
    return {"tokens_BT": tokens_BT.masked_fill(asked_BT, mask), "documents_BT": documents_BT}, asked_BT


def written(
    tokens_BT: Tensor, begins: list[int], ahead: bool, stands: int, end: int, whole: bool, hidden: int
) -> Asked:
    """A decoder's, whose source has one id instead of each span.

    Args:
        tokens_BT: the text.
        begins: where each row's hidden tokens begin.
        ahead: whether what follows them is seen.
        stands: the id that stands for them.
        end: what the decoder begins with.
        whole: the decoder writes all of the text, else `stands` and the tokens.
        hidden: how many there are.
    """
    sources, seen, read, asked = [], [], [], []
    for row, begin in zip(tokens_BT.tolist(), begins, strict=True):
        span, rest = row[begin : begin + hidden], [*row[begin + hidden :], end]
        sources.append([*row[:begin], stands, *rest])
        seen.append([0] * (begin + 1) + [0 if ahead else -1] * len(rest))
        target = row if whole else [stands, *span]
        first = begin if whole else 1
        read.append([end, *target[:-1]])
        asked.append([first <= number < first + hidden for number in range(len(target))])
    shown = {"tokens_BT": read, "documents_BT": [[0] * len(row) for row in read]}
    shown |= {"source_BS": sources, "source_documents_BS": seen}
    return {name: torch.tensor(value) for name, value in shown.items()}, torch.tensor(asked)


def asks(kind: str, vocabulary: int, extra: int, end: int) -> Callable[[Tensor, list[int], bool], Asked]:
    """How a network of a kind is asked, by the rules that its objective states."""
    if kind == "masked":
        return lambda tokens, begins, ahead: hidden_in_place(tokens, begins, vocabulary, ahead)
    stands = vocabulary if kind == "denoise" else vocabulary + extra - 1
    return lambda tokens, begins, ahead: written(tokens, begins, ahead, stands, end, kind == "denoise", HIDDEN[kind])


@torch.no_grad()
def accuracies(kind: str) -> tuple[float, float, int]:
    """Shares of hidden tokens told right, with all around them and without what follows, and how many there are."""
    run = made(kind)
    opened = open_run(run, lambda line: print(line, file=sys.stderr))
    tokenizer, net = opened.tokenizer, opened.net
    ask = asks(kind, tokenizer.vocabulary, opened.objective.extra_ids, tokenizer.end)
    texts = windows(from_dict("data", segments.read(run)[0]["data"]))
    draw, hidden = np.random.default_rng(0), HIDDEN[kind]
    right, asked = [0, 0], 0
    for start in range(0, len(texts), ROWS):
        rows = texts[start : start + ROWS, : texts.shape[1] - hidden]  # a source may be longer than its text
        quarter = rows.shape[1] // 4
        begins = draw.integers(quarter, rows.shape[1] - quarter - hidden, len(rows)).tolist()
        gold = torch.stack([row[begin : begin + hidden] for row, begin in zip(rows, begins, strict=True)])
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
