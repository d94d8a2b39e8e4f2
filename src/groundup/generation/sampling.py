"""Text from a network: cached, batched, with noise keyed by prompt and position; it knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from groundup.generation.choice import choose, uniform
from groundup.generation.reader import Reader
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


def _run(net: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], options: Options) -> Iterator[tuple[int, int]]:
    """Pairs of a prompt's number and its next token, until every answer has ended."""
    if not prompts or options.tokens < 1:
        return
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        reader = Reader(net, [[tokenizer.end, *tokenizer.encode(prompt)] for prompt in prompts], options.tokens)
        answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
        alive = list(answers)
        logits_BV = reader.start()
        while alive:
            draws = [uniform(options.seed, number, len(answers[number])) for number in alive]
            known_BV = logits_BV[:, : tokenizer.vocabulary]  # a network may have more ids than its tokenizer
            chosen = choose(known_BV, draws, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
            going: list[int] = []
            for place, (number, token) in enumerate(zip(alive, chosen, strict=True)):
                if token == tokenizer.end:
                    continue
                answers[number].append(token)
                yield number, token
                if len(answers[number]) < options.tokens and not _stopped(tokenizer, answers[number], options.stop):
                    going.append(place)
            if 0 < len(going) < len(alive):
                reader.keep(going)
            alive = [alive[place] for place in going]
            if alive:
                logits_BV = reader.add([chosen[place] for place in going])
    finally:
        for part, training in modes:
            part.training = training


def _stopped(tokenizer: Tokenizer, answer: list[int], stop: Sequence[str]) -> bool:
    """Whether a stop text has come up; only the end of the answer can hold a new one."""
    if not stop:
        return False
    tail = tokenizer.decode(answer[-max(len(text.encode()) for text in stop) - 4 :])
    return any(text in tail for text in stop)


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [place for piece in stop if (place := text.find(piece)) >= 0]
    return text[: min(ends)] if ends else text
