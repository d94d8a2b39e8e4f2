"""Text from a network: cached, batched, with noise keyed by prompt and position; it knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.core.keyed import generator
from groundup.generation.filter import likelihoods
from groundup.model.cache import Cache
from groundup.model.decoder import Decoder
from groundup.tokenizer.protocol import Tokenizer


@dataclass(kw_only=True)
class Options:
    """How the next token is chosen.

    Attributes:
        tokens: at most so many new ones a prompt.
        temperature: 0 takes the likeliest, 1 samples as the network says.
        top_k: choose among so many likeliest.
        top_p: choose among the fewest likeliest whose probabilities reach this sum (Holtzman et al. 2020).
        seed: names the noise; a row's noise depends on it, the prompt's number and the position alone.
        stop: texts that end an answer; they are not part of it.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()


def sample(
    net: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """What the network writes after each prompt, without the prompt.

    An answer ends with the document, at a stop text, or after `tokens` tokens. Prompts may be of unequal length;
    a row's answer does not depend on the others but for rounding. The net is used in eval mode and left as it was.
    """
    options = Options(tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop)
    answers: list[list[int]] = [[] for _ in prompts]
    for row, token in _run(net, tokenizer, prompts, options):
        answers[row].append(token)
    return [_cut(tokenizer.decode(answer), stop) for answer in answers]


def stream(net: Decoder, tokenizer: Tokenizer, prompt: str, options: Options) -> Iterator[str]:
    """The same answer in pieces as they come; together they are what `sample` gives for this prompt alone."""
    answer: list[int] = []
    sent = 0
    longest = max((len(text) for text in options.stop), default=1)
    for _, token in _run(net, tokenizer, [prompt], options):
        answer.append(token)
        text = _cut(tokenizer.decode(answer), options.stop)
        safe = len(text) - (longest - 1)  # what follows might turn the rest into a stop text
        if not text.endswith("\ufffd") and safe > sent:
            yield text[sent:safe]
            sent = safe
    text = _cut(tokenizer.decode(answer), options.stop)
    if text[sent:]:
        yield text[sent:]


@torch.no_grad()
def _run(net: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], options: Options) -> Iterator[tuple[int, int]]:
    """Pairs of a prompt's number and its next token, until every answer has ended."""
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        device = net.trunk.embedding.weight.device
        texts = [[tokenizer.end, *tokenizer.encode(prompt)] for prompt in prompts]
        starts = [len(ids) for ids in texts]
        alive = list(range(len(prompts))) if options.tokens > 0 else []
        room = net.context
        kept = [ids[-(room - 1) :] if room > 1 else ids[-1:] for ids in texts]
        cache = net.new_cache(len(alive), device=device)
        logits_BV = _read(net, cache, [kept[row] for row in alive], device)
        while alive:
            chosen = _choose(logits_BV, alive, [len(texts[row]) for row in alive], options)
            going: list[int] = []
            for place, (row, token) in enumerate(zip(alive, chosen, strict=True)):
                if token == tokenizer.end:
                    continue
                texts[row].append(token)
                yield row, token
                answer = texts[row][starts[row] :]
                stopped = bool(options.stop) and any(text in tokenizer.decode(answer) for text in options.stop)
                if len(answer) < options.tokens and not stopped:
                    going.append(place)
            if not going:
                return
            alive = [alive[place] for place in going]
            cache.keep(torch.tensor(going, device=device))
            if int(cache.lengths.max()) < room:
                last = [[texts[row][-1]] for row in alive]
            else:  # a row is full: all begin again with the later half of what they hold
                cache = net.new_cache(len(alive), device=device)
                last = [texts[row][-max(1, room // 2) :] for row in alive]
            logits_BV = _read(net, cache, last, device)
    finally:
        for part, training in modes:
            part.training = training


def _read(net: Decoder, cache: Cache, ids: list[list[int]], device: torch.device) -> Tensor:
    """Let rows read further tokens, padded on the right; logits behind each row's last, (B, V) fp32."""
    longest = max((len(row) for row in ids), default=0)
    tokens_BT = torch.tensor([row + [0] * (longest - len(row)) for row in ids], dtype=torch.int64, device=device)
    counts_B = torch.tensor([len(row) for row in ids], dtype=torch.int64, device=device)
    return net.decode(tokens_BT, cache, counts_B).float()


def _choose(logits_BV: Tensor, rows: list[int], positions: list[int], options: Options) -> list[int]:
    """The next token of each row, by inverting the distribution at one keyed uniform number."""
    if options.temperature == 0:
        return list(map(int, logits_BV.argmax(dim=-1).tolist()))
    p_BV = likelihoods(logits_BV, options.temperature, options.top_k, options.top_p)
    draws = [
        generator(options.seed, "generation", row, position).random()
        for row, position in zip(rows, positions, strict=True)
    ]
    steps_BV = p_BV.double().cumsum(dim=-1)
    at_B1 = torch.tensor(draws, dtype=torch.float64, device=p_BV.device)[:, None] * steps_BV[:, -1:]
    chosen_B = torch.searchsorted(steps_BV, at_B1, right=True)[:, 0]
    last_B = (p_BV > 0).long().cumsum(dim=-1).argmax(dim=-1)  # rounding must not lead behind the last likely one
    return list(map(int, torch.minimum(chosen_B, last_B).tolist()))


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [place for piece in stop if (place := text.find(piece)) >= 0]
    return text[: min(ends)] if ends else text
