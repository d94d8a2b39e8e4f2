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
        compile: compile the step that reads a token, about half a minute for each number of prompts: it pays from some
            thousand tokens on. Answers are the same but for rounding.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()
    compile: bool = False


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
    return write(net, tokenizer, [[tokenizer.end, *tokenizer.encode(prompt)] for prompt in prompts], options)


def write(
    net: Decoder,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    options: Options,
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """What the network writes after each row of ids; else as `sample`.

    Args:
        net: the network.
        tokenizer: turns ids into text.
        rows: ids to go on from, at least one each; a document's beginning starts with `tokenizer.end`.
        options: how tokens are chosen, and how many.
        numbers: names of the rows, by which their noise is keyed; None: 0, 1, ...
    """
    answers: list[list[int]] = [[] for _ in rows]
    for row, token in _run(net, tokenizer, rows, options, numbers):
        answers[row].append(token)
    return [_cut(tokenizer.decode(answer), options.stop) for answer in answers]


def stream(net: Decoder, tokenizer: Tokenizer, prompt: str, options: Options) -> Iterator[str]:
    """The same answer in pieces as they come; together they are what `sample` gives for this prompt alone."""
    answer: list[int] = []
    sent = 0
    longest = max((len(text) for text in options.stop), default=1)
    for _, token in _run(net, tokenizer, [[tokenizer.end, *tokenizer.encode(prompt)]], options):
        answer.append(token)
        text = _cut(tokenizer.decode(answer), options.stop)
        safe = len(text) - (longest - 1)  # what follows might turn the rest into a stop text
        if not text.endswith("\ufffd") and safe > sent:
            yield text[sent:safe]
            sent = safe
    text = _cut(tokenizer.decode(answer), options.stop)
    if text[sent:]:
        yield text[sent:]


def _run(
    net: Decoder,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    options: Options,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Pairs of a row's place and its next token, until every answer has ended."""
    if not rows or options.tokens < 1:
        return
    numbers = range(len(rows)) if numbers is None else numbers
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        reader = Reader(net, rows, options.tokens, options.compile)
        answers: dict[int, list[int]] = {place: [] for place in range(len(rows))}
        alive, ended = list(answers), set[int]()
        logits_BV = reader.start()
        while True:
            draws = [uniform(options.seed, numbers[row], len(answers[row])) for row in alive]
            known_BV = logits_BV[:, : tokenizer.vocabulary]  # a network may have more ids than its tokenizer
            chosen = choose(known_BV, draws, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
            for row, token in zip(alive, chosen, strict=True):
                if row in ended:
                    continue
                if token == tokenizer.end:
                    ended.add(row)
                    continue
                answers[row].append(token)
                yield row, token
                if len(answers[row]) == options.tokens or _stopped(tokenizer, answers[row], options.stop):
                    ended.add(row)
            going = [place for place, row in enumerate(alive) if row not in ended]
            if not going:
                break
            if len(going) < len(alive) and not options.compile:  # a compiled step is of so many rows
                reader.keep(going)
                chosen, alive = [chosen[place] for place in going], [alive[place] for place in going]
            logits_BV = reader.add(chosen)
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
