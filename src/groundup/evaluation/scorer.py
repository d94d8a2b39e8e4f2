"""Requests answered by a network: likelihoods of continuations, and text; it knows tokens and no task.

A multiple-choice question asks for several continuations of one beginning. Here the beginning is read once: a row
holds it and, side by side, every continuation as a branch that sees the beginning and itself. Logits are made for the
continuations alone. With several processes each takes its share of the batches, all of them as many, so that nets
whose forward pass needs every process can be asked too; processes that share layers have the same share and read it
together. Every process gets all the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from groundup.generation import Options, write
from groundup.generation.reader import padded, source, start_of
from groundup.model.decoder import Decoder
from groundup.model.encoder_decoder import EncoderDecoder
from groundup.model.head import IGNORED
from groundup.tokenizer.protocol import Tokenizer

T = TypeVar("T")
Ids = tuple[int, ...]
Likelihood = tuple[float, bool]
"""The logarithm of a continuation's probability, and whether each of its tokens was the likeliest."""

WORTH_SHARING = 8
"""Tokens of a common beginning from which it is read once for all its continuations."""


BATCH_TOKENS = {"cpu": 1024, "gpu": 16_384}
"""Tokens of a forward pass where nothing is said: a CPU gains nothing from more than its caches hold."""

FULL = 0.85
"""A row shorter than this share of its batch's longest begins another batch, rather than being padded."""

WIDEST = 1024
"""Positions of a row with branches, or twice its beginning where that is more: its mask grows with their square."""


@dataclass(frozen=True)
class Row:
    """A row of a forward pass: a beginning and at least one continuation.

    Attributes:
        context: ids, at least one.
        continuations: ids of each, at least one.
    """

    context: Ids
    continuations: tuple[Ids, ...]

    @property
    def length(self) -> int:
        """Positions it takes up; branches repeat the beginning's last token."""
        return len(self.context) - 1 + sum(map(len, self.continuations))


class Scorer:
    """Asks a network in batches of bounded size.

    Args:
        net: in eval mode.
        tokenizer: for texts that the network writes.
        batch_tokens: tokens of a forward pass, padding included, or that answers being written may hold; a longer
            request goes alone. None: `BATCH_TOKENS`, for answers that of a GPU.
        batch: requests of a forward pass at most.
        context: positions a request may take up; None: the network's.
        autocast: makes the context in which forward passes run.
        tell: called with a number of requests done and of all.
        share: which of how many shares of the batches this process reads.
    """

    def __init__(
        self,
        net: Decoder,
        tokenizer: Tokenizer,
        batch_tokens: int | None = None,
        batch: int | None = None,
        context: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        tell: Callable[[int, int], None] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.net, self.tokenizer = net, tokenizer
        self.context = net.context if context is None else min(context, net.context)
        self.shortened = 0
        self._device = net.trunk.embedding.weight.device
        kind = "cpu" if self._device.type == "cpu" else "gpu"
        self.batch_tokens = BATCH_TOKENS[kind] if batch_tokens is None else batch_tokens
        self._requests = batch
        self._written = BATCH_TOKENS["gpu"] if batch_tokens is None else batch_tokens
        self._autocast, self._tell, self._share = autocast, tell, share

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """The likelihood of each continuation after its beginning.

        What is too long loses tokens at its left, as in lm-eval's own models; `shortened` counts these requests.

        Args:
            pairs: ids of a beginning and of a continuation, at least one each.
        """
        fitting = [self._fit(tuple(context), tuple(continuation)) for context, continuation in pairs]
        wanted: dict[Ids, dict[Ids, None]] = {}
        for context, continuation in fitting:
            wanted.setdefault(context, {})[continuation] = None
        rows = [row for context, given in wanted.items() for row in self._rows(context, list(given))]
        batches = self._batches(rows)
        found: dict[tuple[Ids, Ids], Likelihood] = {}
        for answers in self._shared(batches, self._read, lambda batch: sum(len(row.continuations) for row in batch)):
            found.update(answers)
        return [found[pair] for pair in fitting]

    def write(self, requests: Sequence[tuple[Sequence[int], Options]]) -> list[str]:
        """The text that the network writes after each beginning.

        Args:
            requests: ids to go on from, at least one, and how. A beginning that leaves no room for the answer in the
                context loses tokens at its left.
        """
        jobs: dict[str, list[int]] = {}
        for number, (_, options) in enumerate(requests):
            jobs.setdefault(repr(options), []).append(number)
        batches = []
        for numbers in jobs.values():
            numbers.sort(key=lambda number: -len(requests[number][0]))
            size = self._requests or max(1, self._written // self.context)
            batches += [numbers[start : start + size] for start in range(0, len(numbers), size)]

        def room(options: Options) -> int:
            left = self.context - options.tokens
            return left if left > 0 else max(1, self.context // 2)

        def answer(numbers: list[int]) -> dict[int, str]:
            options = requests[numbers[0]][1]
            prompts = [requests[number][0][-room(options) :] for number in numbers]
            with self._autocast():
                texts = write(self.net, self.tokenizer, prompts, options, numbers)
            return dict(zip(numbers, texts, strict=True))

        self.shortened += sum(len(prompt) > room(options) for prompt, options in requests)
        found: dict[int, str] = {}
        for answers in self._shared(batches, answer, len):
            found.update(answers)
        return [found[number] for number in range(len(requests))]

    def _fit(self, context: Ids, continuation: Ids) -> tuple[Ids, Ids]:
        whole = context + continuation
        if len(whole) <= self.context + 1:
            return context, continuation
        self.shortened += 1
        kept = min(len(continuation), self.context)
        return whole[-(self.context + 1) : -kept], whole[-kept:]

    def _rows(self, context: Ids, continuations: list[Ids]) -> Iterable[Row]:
        """One row for all continuations, where that saves reading, or as many as the bounds ask for."""
        if len(context) < WORTH_SHARING or not self.net.reads_branches:
            return [Row(context, (continuation,)) for continuation in continuations]
        rows: list[list[Ids]] = []
        length = 0
        for continuation in continuations:
            length += len(continuation)
            full = rows and (
                len(rows[-1]) == self._requests
                or len(context) - 1 + length > max(min(self.batch_tokens, WIDEST), 2 * len(context))
            )
            if not rows or full:
                rows.append([])
                length = len(continuation)
            rows[-1].append(continuation)
        return [Row(context, tuple(row)) for row in rows]

    def _batches(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows of one kind and of like length together, the longest first, so that memory runs out at once or never."""
        batches: list[list[Row]] = []
        kind, requests = False, 0
        for row in sorted(rows, key=lambda row: (len(row.continuations) > 1, -row.length)):
            asked = len(row.continuations)
            full = not batches or (
                (asked > 1) != kind
                or (len(batches[-1]) + 1) * batches[-1][0].length > self.batch_tokens
                or row.length < FULL * batches[-1][0].length
                or (self._requests is not None and requests + asked > self._requests)
            )
            if full:
                batches.append([])
                kind, requests = asked > 1, 0
            batches[-1].append(row)
            requests += asked
        return batches

    def _read(self, rows: list[Row]) -> dict[tuple[Ids, Ids], Likelihood]:
        """One forward pass."""
        start = start_of(self.net, self.tokenizer.end)
        if start is not None:
            return self._written_to(rows, start)
        branched = len(rows[0].continuations) > 1
        laid = [_laid(row) for row in rows]
        longest = max(row.length for row in rows)
        tokens, targets, branches, positions = (
            torch.tensor([[*row[i], *[fill] * (longest - len(row[i]))] for row in laid]).to(self._device)
            for i, fill in enumerate((0, IGNORED, 0, 0))
        )
        with self._autocast():
            if branched:
                nll_N, greedy_N = self.net.likelihoods(tokens, targets, branches, positions)
            else:
                nll_N, greedy_N = self.net.likelihoods(tokens, targets)
        return _answers(rows, nll_N, greedy_N)

    def _written_to(self, rows: list[Row], start: int) -> dict[tuple[Ids, Ids], Likelihood]:
        """The same of an encoder-decoder: beginnings are its sources, continuations are written to them."""
        written = [row.continuations[0] for row in rows]
        read = [source(row.context, self.tokenizer.end)[-self.net.context :] for row in rows]
        sources_BS, counts_B = padded(read, self._device)
        tokens_BT, lengths_B = padded([[start, *ids[:-1]] for ids in written], self._device)
        targets_BT, _ = padded(written, self._device)
        beyond_BT = torch.arange(targets_BT.shape[1], device=self._device) >= lengths_B[:, None]
        with self._autocast():
            net = cast(EncoderDecoder, self.net)
            found = net.likelihoods(tokens_BT, targets_BT.masked_fill(beyond_BT, IGNORED), sources_BS, counts_B)
        return _answers(rows, *found)

    def _shared(
        self, batches: list[T], work: Callable[[T], dict[Any, Any]], size: Callable[[T], int]
    ) -> list[dict[Any, Any]]:
        """The answers to all batches, each process working on its share; all work equally often."""
        world, (place, shares) = dist.get_world_size() if _distributed() else 1, self._share
        answers: list[dict[Any, Any]] = []
        failed: Exception | None = None
        total, done = sum(map(size, batches)), 0
        for start in range(0, len(batches), shares):
            mine = min(start + place, len(batches) - 1)
            if failed is None:
                try:
                    answers.append(work(batches[mine]))
                except Exception as error:
                    if world == 1:
                        raise
                    failed = error  # told below, so that all processes leave together
            done += sum(map(size, batches[start : start + shares]))
            if self._tell is not None:
                self._tell(done, total)
        if world == 1:
            return answers
        gathered: list[Any] = [None] * world
        dist.all_gather_object(gathered, (answers, None if failed is None else f"{type(failed).__name__}: {failed}"))
        if failed is not None:
            raise failed
        for number, (_, why) in enumerate(gathered):
            if why is not None:
                raise RuntimeError(f"process {number} failed: {why}")
        return [answer for each, _ in gathered for answer in each]


def _laid(row: Row) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, targets, branches and positions of a row."""
    context, before = row.context, len(row.context) - 1
    tokens, targets = list(context[:-1]), [IGNORED] * before
    branches, positions = [0] * before, list(range(before))
    for number, continuation in enumerate(row.continuations, 1):
        tokens += [context[-1], *continuation[:-1]]
        targets += continuation
        branches += [number] * len(continuation)
        positions += range(before, before + len(continuation))
    return tokens, targets, branches, positions


def _answers(rows: list[Row], nll_N: Tensor, greedy_N: Tensor) -> dict[tuple[Ids, Ids], Likelihood]:
    asked = [(row.context, continuation) for row in rows for continuation in row.continuations]
    nll, greedy = nll_N.cpu().double(), greedy_N.cpu()
    found, start = {}, 0
    for context, continuation in asked:
        own = slice(start, start := start + len(continuation))
        found[context, continuation] = -float(nll[own].sum()), bool(greedy[own].all())
    return found


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
