"""Text from a network: cached, batched, with noise keyed by prompt and position; it knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from groundup.generation.beam import search
from groundup.generation.choice import choose, penalise, uniform
from groundup.generation.reader import Reader, source, start_of
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
        min_p: choose among those at least this times as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: above 1, ids that stand in the row already are less likely: those of the prompt, what was
            written, and `tokenizer.end` where the row begins with it (Keskar et al. 2019). 1: as the network says.
        beams: above 1, search with so many for the likeliest answer, and draw nothing (see `groundup.generation.beam`).
        length_penalty: of beams: the power of its length by which an answer's log-probability is divided.
        seed: names the noise; a row's noise depends on it, the prompt's number and the position alone.
        stop: texts that end an answer; they are not part of it.
        compile: compile the step that reads a token, about half a minute for each number of prompts: it pays from some
            thousand tokens on. Answers are the same but for rounding.

    Raises:
        ValueError: beams beside what draws tokens, or beside `compile`.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        drawn = self.temperature != 0 or any(given is not None for given in (self.top_k, self.top_p, self.min_p))
        if self.beams > 1 and (drawn or self.compile):
            raise ValueError("beams above 1 need temperature=0, and go without top_k, top_p, min_p and compile")


def sample(
    net: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    beams: int = 1,
    length_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """What the network writes after each prompt, without the prompt.

    An answer ends with the document, at a stop text, or after `tokens` tokens. Prompts may be of unequal length;
    a row's answer does not depend on the others but for rounding. The net is used in eval mode and left as it was.
    What the options mean, and which do not go together, stands at `Options`.
    """
    options = Options(
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        beams=beams,
        length_penalty=length_penalty,
        seed=seed,
        stop=stop,
    )
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
        rows: ids to go on from, at least one each; a document's beginning starts with `tokenizer.end`. An
            encoder-decoder reads them as sources.
        options: how tokens are chosen, and how many.
        numbers: names of the rows, by which their noise is keyed; None: 0, 1, ...
    """
    if options.beams > 1:
        answers = _searched(net, tokenizer, rows, options)
    else:
        answers = [[] for _ in rows]
        for row, token in _run(net, tokenizer, rows, options, numbers):
            answers[row].append(token)
    return [_cut(tokenizer.decode(answer), options.stop) for answer in answers]


def stream(net: Decoder, tokenizer: Tokenizer, prompt: str, options: Options) -> Iterator[str]:
    """The same answer in pieces as they come; together they are what `sample` gives for this prompt alone.

    With beams it comes in one piece: which beam is the best is known at the end.
    """
    row = [tokenizer.end, *tokenizer.encode(prompt)]
    if options.beams > 1:
        yield from filter(None, write(net, tokenizer, [row], options))
        return
    answer: list[int] = []
    sent = 0
    longest = max((len(text) for text in options.stop), default=1)
    for _, token in _run(net, tokenizer, [row], options):
        answer.append(token)
        text = _cut(tokenizer.decode(answer), options.stop)
        safe = len(text) - (longest - 1)  # what follows might turn the rest into a stop text
        if not text.endswith("\ufffd") and safe > sent:
            yield text[sent:safe]
            sent = safe
    text = _cut(tokenizer.decode(answer), options.stop)
    if text[sent:]:
        yield text[sent:]


@contextmanager
def _evaluating(net: Decoder) -> Iterator[None]:
    """In this block the net is in eval mode; after it every part is in its mode of before."""
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _searched(net: Decoder, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], options: Options) -> list[list[int]]:
    """The likeliest answer to each row that beams find, one row after the other."""
    with _evaluating(net):
        return [
            search(
                net,
                row,
                end=tokenizer.end,
                vocabulary=tokenizer.vocabulary,
                beams=options.beams,
                tokens=options.tokens,
                length_penalty=options.length_penalty,
                repetition_penalty=options.repetition_penalty,
                stopped=lambda answer: _stopped(tokenizer, answer, options.stop),
            )
            for row in rows
        ]


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
    start = start_of(net, tokenizer.end)
    prompts = rows if start is None else [source(row, tokenizer.end) for row in rows]
    before = rows if start is None else [[start] for _ in rows]
    with _evaluating(net):
        reader = Reader(net, prompts, options.tokens, options.compile, start)
        answers: dict[int, list[int]] = {place: [] for place in range(len(rows))}
        alive, ended = list(answers), set[int]()
        logits_BV = reader.start()
        while True:
            draws = [uniform(options.seed, numbers[row], len(answers[row])) for row in alive]
            if options.repetition_penalty != 1:
                said = [{*before[row], *answers[row]} for row in alive]  # the reader forgets what left the context
                logits_BV = penalise(logits_BV, said, options.repetition_penalty)
            chosen = choose(
                logits_BV[:, : tokenizer.vocabulary],  # a network may have more ids than its tokenizer
                draws,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                min_p=options.min_p,
            )
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


def _stopped(tokenizer: Tokenizer, answer: list[int], stop: Sequence[str]) -> bool:
    """Whether a stop text has come up; only the end of the answer can hold a new one."""
    if not stop:
        return False
    tail = tokenizer.decode(answer[-max(len(text.encode()) for text in stop) - 4 :])
    return any(text in tail for text in stop)


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [place for piece in stop if (place := text.find(piece)) >= 0]
    return text[: min(ends)] if ends else text
