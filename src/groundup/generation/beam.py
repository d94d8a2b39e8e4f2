"""The likeliest answer to one prompt, searched for with several beams; it knows no tokenizer and draws nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from groundup.generation.choice import penalise, widen
from groundup.generation.reader import Reader, source, start_of

if TYPE_CHECKING:
    from groundup.model.decoder import Decoder


class Beam(NamedTuple):
    """An answer, or the beginning of one.

    Attributes:
        answer: its ids, the end included.
        total: the sum of their log-probabilities, in nats.
        parent: the number of the beam that it goes on from.
    """

    answer: list[int]
    total: float
    parent: int


def score(total: float, length: int, length_penalty: float) -> float:
    """What answers are compared by: log-probability over length**length_penalty.

    This is Hugging Face's simpler form of the length normalisation of Wu et al. 2016 (section 7).

    Args:
        total: the sum of log-probabilities, in nats.
        length: ids of the answer, the end included.
        length_penalty: 0 compares probabilities, 1 their means by token.
    """
    return total * math.pow(length, -length_penalty)


def search(
    net: Decoder,
    prompt: Sequence[int],
    *,
    end: int,
    vocabulary: int,
    beams: int,
    tokens: int,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    stopped: Callable[[list[int]], bool] = lambda _: False,
) -> list[int]:
    """The best answer that beam search finds, its end left out.

    Of all ways to go on from the open beams by one id, those among the likeliest `beams` that end an answer are
    finished, and the likeliest `beams` that do not, among twice as many, stay open: so an end takes no beam's place.
    The search is over when no open beam can beat the worst of the best `beams` finished ones.

    With one beam and a length penalty of 0 it is the greedy choice; with another penalty it may look beyond an end.

    Args:
        net: the network, in eval mode.
        prompt: ids to go on from, at least one; an encoder-decoder reads them as its source.
        end: the id that ends an answer.
        vocabulary: ids from here on are never chosen, and have no share in probabilities.
        beams: how many are open at once.
        tokens: the longest answer, the end included.
        length_penalty: see `score`.
        repetition_penalty: see `penalise`; probabilities are those after it.
        stopped: whether the last of these ids ends the answer, though it is not the end.
    """
    if tokens < 1:
        return []
    going, finished = [Beam([], 0.0, 0)], list[Beam]()
    start = start_of(net, end)
    reader = Reader(net, [prompt if start is None else source(prompt, end)], tokens, start=start)
    before = prompt if start is None else [start]
    logits_BV = reader.start()

    def ends(answer: list[int]) -> bool:
        return answer[-1] == end or len(answer) == tokens or stopped(answer)

    for _ in range(tokens):
        if repetition_penalty != 1:
            logits_BV = penalise(logits_BV, [{*before, *beam.answer} for beam in going], repetition_penalty)
        log_p_BV = widen(logits_BV)[:, :vocabulary].log_softmax(dim=-1)
        going, ended = _grown(going, log_p_BV, beams, ends)
        finished += ended
        finished.sort(key=lambda beam: -score(beam.total, len(beam.answer), length_penalty))
        del finished[beams:]
        if not going or (len(finished) == beams and not _beats(going[0], finished[-1], tokens, length_penalty)):
            break
        reader.keep([beam.parent for beam in going])
        logits_BV = reader.add([beam.answer[-1] for beam in going])
    best = finished[0].answer
    return best[:-1] if best[-1] == end else best


def _grown(
    going: list[Beam], log_p_BV: Tensor, beams: int, ends: Callable[[list[int]], bool]
) -> tuple[list[Beam], list[Beam]]:
    """The likeliest ways to go on by one id: those that stay open, and those that end, as `search` says."""
    totals_B = torch.tensor([beam.total for beam in going], dtype=log_p_BV.dtype, device=log_p_BV.device)
    totals, places = (totals_B[:, None] + log_p_BV).flatten().topk(min(2 * beams, log_p_BV.numel()))
    opened, ended = list[Beam](), list[Beam]()
    for rank, (total, place) in enumerate(zip(totals.tolist(), places.tolist(), strict=True)):
        parent, token = divmod(place, log_p_BV.shape[1])
        beam = Beam([*going[parent].answer, token], total, parent)
        if not ends(beam.answer):
            opened.append(beam)
        elif rank < beams:
            ended.append(beam)
    return opened[:beams], ended


def _beats(going: Beam, finished: Beam, tokens: int, length_penalty: float) -> bool:
    """Whether the likeliest open beam might end with the better score: its total can only fall."""
    length = tokens if length_penalty > 0 else len(going.answer) + 1
    attainable = score(going.total, length, length_penalty)
    return attainable > score(finished.total, len(finished.answer), length_penalty)
