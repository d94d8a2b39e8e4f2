"""Laws of beam search: wide enough it finds the best answer there is, ending early loses nothing, rows stay apart."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.generation import Options, sample, stream, write
from groundup.generation.beam import search
from groundup.generation.reader import Reader
from groundup.model import config as model_config  # noqa: F401  # registers the decoder
from groundup.tokenizer.byte import Bytes

END = 2
CONTEXT = 10
PROMPTS = [[END], [END, 0], [END, 1, 1], [END, 0, 1, 0]]

Answer = tuple[int, ...]
Stopped = Callable[[Sequence[int]], bool]


def never(answer: Sequence[int]) -> bool:
    return False


def net(seed: int = 0, vocabulary: int = 3, **options: Any) -> Any:
    torch.manual_seed(seed)
    shape = {"layers": 2, "width": 32, "heads": 2, "context": CONTEXT, "vocabulary": vocabulary}
    return from_dict("model", {"kind": "decoder", **shape, "init": "gpt2", "init_std": 0.3, **options}).build().eval()


@torch.no_grad()
def logs(model: Any, prompt: Sequence[int], answer: Sequence[int], penalty: float = 1.0) -> list[float]:
    """Log-probabilities of the next id by a whole forward pass over what a reader would have in its context."""
    window = list(prompt)[-model.context :]
    for token in answer:
        window = [*window, token]
        if len(window) > model.context:
            window = window[-(model.context // 2) :]
    logits = model(torch.tensor([window]))[0, -1].tolist()
    for token in {*prompt, *answer}:
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    norm = math.log(sum(map(math.exp, logits)))
    return [logit - norm for logit in logits]


def everything(model: Any, prompt: list[int], tokens: int, penalty: float, stopped: Stopped) -> dict[Answer, float]:
    """The log-probability of every answer there is, its end included."""
    found: dict[Answer, float] = {}

    def go_on(answer: Answer, total: float) -> None:
        if answer and (answer[-1] == END or len(answer) == tokens or stopped(answer)):
            found[answer] = total
            return
        for token, log in enumerate(logs(model, prompt, answer, penalty)):
            go_on((*answer, token), total + log)

    go_on((), 0.0)
    return found


def plain(
    model: Any,
    prompt: Sequence[int],
    *,
    end: int,
    beams: int,
    tokens: int,
    length_penalty: float,
    repetition_penalty: float = 1.0,
    stopped: Stopped = never,
) -> list[int]:
    """Beam search without a cache that always goes on to the last token, its end left out."""
    going: list[tuple[float, Answer]] = [(0.0, ())]
    finished: list[tuple[float, Answer]] = []
    for length in range(1, tokens + 1):
        made = [
            (total + log, (*answer, token))
            for total, answer in going
            for token, log in enumerate(logs(model, prompt, answer, repetition_penalty))
        ]
        made = sorted(made, reverse=True)[: 2 * beams]
        ended = [answer[-1] == end or length == tokens or stopped(answer) for _, answer in made]
        finished += [
            (total / length**length_penalty, answer)
            for (total, answer), over in zip(made[:beams], ended[:beams], strict=True)
            if over
        ]
        going = [one for one, over in zip(made, ended, strict=True) if not over][:beams]
    answer = list(max(finished)[1])
    return answer[:-1] if answer[-1] == end else answer


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("stopped", [never, lambda answer: tuple(answer[-2:]) == (0, 1)], ids=["no stop", "stop"])
def test_beams_as_many_as_answers_find_the_best_there_is(penalty: float, stopped: Stopped) -> None:
    tokens, lengths = 4, set()
    for seed in range(3):
        model = net(seed)
        for prompt in PROMPTS:
            totals = everything(model, prompt, tokens, penalty, stopped)
            for power in (0, 1, 2):
                best = max(totals, key=lambda answer: totals[answer] / len(answer) ** power)
                found = search(
                    model,
                    prompt,
                    end=END,
                    vocabulary=3,
                    beams=2**5 - 1,
                    tokens=tokens,
                    length_penalty=power,
                    repetition_penalty=penalty,
                    stopped=stopped,
                )
                assert found == [token for token in best if token != END]
                lengths.add(len(best))
    assert min(lengths) < tokens
    assert max(lengths) == tokens


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_search_that_ends_when_nothing_better_can_come_finds_what_one_to_the_last_token_finds(
    beams: int, power: float
) -> None:
    for seed in range(2):
        model = net(seed)
        for prompt in PROMPTS:
            options: dict[str, Any] = {"end": END, "beams": beams, "tokens": 8, "length_penalty": power}
            for penalty in (1.0, 1.3):
                found = search(model, prompt, vocabulary=3, repetition_penalty=penalty, **options)
                assert found == plain(model, prompt, repetition_penalty=penalty, **options)


def test_a_search_goes_on_beyond_the_context_and_from_prompts_longer_than_it() -> None:
    model = net(vocabulary=20)
    for prompt in ([19, 3], [19, *range(12)]):
        options: dict[str, Any] = {"end": 19, "beams": 3, "tokens": 16, "length_penalty": 2.0}
        assert search(model, prompt, vocabulary=20, **options) == plain(model, prompt, **options)


def test_one_beam_without_a_length_penalty_is_the_greedy_choice() -> None:
    lengths = set()
    for seed in range(4):
        model = net(seed)
        for prompt in PROMPTS:
            greedy: list[int] = []
            while len(greedy) < 6:
                found = logs(model, prompt, greedy)
                if (token := found.index(max(found))) == END:
                    break
                greedy.append(token)
            one = search(model, prompt, end=END, vocabulary=3, beams=1, tokens=6, length_penalty=0)
            assert one == greedy
            lengths.add(len(greedy))
    assert len(lengths) > 1


def test_options_with_one_beam_write_the_greedy_answer() -> None:
    model, prompts = net(vocabulary=257), ["a", "mid"]
    greedy = sample(model, Bytes(), prompts, tokens=12, temperature=0)
    assert sample(model, Bytes(), prompts, tokens=12, temperature=0, beams=1) == greedy


def test_a_search_ends_as_soon_as_no_open_beam_can_be_better() -> None:
    model = net(head_bias=True)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 30.0]))  # to end is all but certain
    passes: list[int] = []
    model.trunk.register_forward_hook(lambda *_: passes.append(1))
    assert search(model, [END], end=END, vocabulary=3, beams=2, tokens=8, length_penalty=0) == []
    assert len(passes) == 2  # the second beam ends one token later


def test_an_answer_does_not_depend_on_the_other_prompts() -> None:
    model, tokenizer = net(vocabulary=257), Bytes()
    prompts = ["a", "a longer prompt than the context", "mid"]
    options: dict[str, Any] = {"tokens": 14, "temperature": 0, "beams": 3}
    together = sample(model, tokenizer, prompts, **options)
    assert [sample(model, tokenizer, [prompt], **options)[0] for prompt in prompts] == together
    assert sample(model, tokenizer, prompts[::-1], **options) == together[::-1]
    assert len(set(together)) == 3


def test_a_stop_text_ends_a_beam_and_is_not_part_of_the_answer() -> None:
    model, tokenizer = net(vocabulary=257), Bytes()
    rows = [[tokenizer.end, *prompt.encode()] for prompt in ("a", "mid", "In the")]
    options: dict[str, Any] = {"beams": 3, "tokens": 10, "length_penalty": 0.5}
    texts = write(model, tokenizer, rows, Options(temperature=0, stop=tuple(string.ascii_letters), **options))
    for row, text in zip(rows, texts, strict=True):
        whole = tokenizer.decode(
            plain(
                model,
                row,
                end=tokenizer.end,
                stopped=lambda answer: chr(answer[-1]) in string.ascii_letters,
                **options,
            )
        )
        assert text == re.split("[a-zA-Z]", whole)[0]


def test_a_searched_answer_is_streamed_in_one_piece() -> None:
    model, options = net(vocabulary=257), Options(tokens=9, temperature=0, beams=2, length_penalty=2.0)
    (text,) = write(model, Bytes(), [[256, *b"ab"]], options)
    assert text
    assert list(stream(model, Bytes(), "ab", options)) == [text]


def test_a_search_leaves_training_mode_alone_and_writes_nothing_where_no_token_is_allowed() -> None:
    model = net(vocabulary=257, dropout=0.5).train()
    first, second = (sample(model, Bytes(), ["a"], tokens=6, temperature=0, beams=2) for _ in range(2))
    assert first == second
    assert model.training
    assert sample(model, Bytes(), ["a", "b"], tokens=0, temperature=0, beams=2) == ["", ""]


@pytest.mark.parametrize(
    "given", [{"temperature": 1.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"compile": True}], ids=str
)
def test_beams_beside_what_they_do_not_go_with_are_refused(given: dict[str, Any]) -> None:
    Options(**{"temperature": 0, **given})
    with pytest.raises(ValueError, match="beams above 1 need temperature=0"):
        Options(**{"temperature": 0, "beams": 2, **given})


def test_rows_made_of_one_go_their_own_ways_beyond_the_context_too() -> None:
    model, prompts = net(vocabulary=20), [[1, 2, 3], [4, 5, 6]]
    reader = Reader(model, prompts, 12)
    reader.start()
    reader.keep([1, 0, 1])
    ways = [[7] * 12, [8, 9] * 6, [10, 11, 12] * 4]
    for step in range(12):
        logits = reader.add([way[step] for way in ways])
        for place, (prompt, way) in enumerate(zip((prompts[1], prompts[0], prompts[1]), ways, strict=True)):
            expected = torch.tensor(logs(model, prompt, way[: step + 1]))
            torch.testing.assert_close(logits[place].log_softmax(dim=-1), expected, rtol=1e-4, atol=1e-4)
