"""Likelihoods of continuations against the plain definition, however requests are batched and shared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together

from groundup.evaluation.scorer import Row, Scorer
from groundup.generation import Options, write
from groundup.tokenizer.byte import Bytes

sys.path.insert(0, str(Path(__file__).parent))
from scorer_ranks import LAYOUTS, answers, begun, requests

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "learned": {"positions": "learned", "norm": "layer", "bias": True, "gain": True, "tied": True},
    "grouped": {"kv_heads": 2, "softcap": 15.0, "activation": "swiglu"},
    "values": {"value_embeddings": True, "mixing": True},
    "shifted": {"shift": True},
}


@torch.no_grad()
def plainly(net: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The definition: one text, all its logits."""
    logits = net(torch.tensor([[*context, *continuation][:-1]]))[0].double().log_softmax(-1)
    logits = logits[len(context) - 1 :]
    total = sum(float(row[token]) for row, token in zip(logits, continuation, strict=True))
    return total, [int(row.argmax()) for row in logits] == continuation


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bounds", [(10**6, None), (128, None), (10**6, 1), (300, 3)])
def test_a_continuation_is_as_likely_as_read_alone(
    build: Callable[..., Any], tokenizer: Bytes, form: str, bounds: tuple[int, int | None]
) -> None:
    net, asked = build(**FORMS[form]), requests()
    answers = Scorer(net, tokenizer, *bounds).score(asked)
    for (total, greedy), pair in zip(answers, asked, strict=True):
        expected = plainly(net, *pair)
        assert total == pytest.approx(expected[0], abs=2e-4)
        assert greedy == expected[1]


def test_what_the_network_would_write_is_greedy(build: Callable[..., Any], tokenizer: Bytes) -> None:
    net = build()
    context = tokenizer.encode("In the beginning ")
    with torch.no_grad():
        wrote: list[int] = []
        for _ in range(6):
            wrote.append(int(net(torch.tensor([[*context, *wrote]]))[0, -1].argmax()))
    other = [*wrote[:-1], (wrote[-1] + 1) % 256]
    ((_, first), (_, second)) = Scorer(net, tokenizer, 4096).score([(context, wrote), (context, other)])
    assert first
    assert not second


def test_a_beginning_shared_by_continuations_is_read_once(build: Callable[..., Any], tokenizer: Bytes) -> None:
    net = build()
    read = 0
    inner = net.likelihoods

    def counting(tokens: Any, *rest: Any) -> Any:
        nonlocal read
        read += tokens.numel()
        return inner(tokens, *rest)

    net.likelihoods = counting
    context = list(range(100))
    Scorer(net, tokenizer, 4096).score([(context, [1, 2]), (context, [3]), (context, [4, 5, 6]), (context, [7])])
    assert read == 99 + 2 + 1 + 3 + 1


def test_a_batch_holds_no_more_than_its_bounds(build: Callable[..., Any], tokenizer: Bytes) -> None:
    net = build()
    sizes: list[tuple[int, int]] = []
    inner = net.likelihoods

    def noting(tokens: Any, targets: Any, *rest: Any) -> Any:
        sizes.append((tokens.numel(), tokens.shape[0]))
        return inner(tokens, targets, *rest)

    net.likelihoods = noting
    Scorer(net, tokenizer, 200).score(requests())
    assert all(tokens <= 200 or rows == 1 for tokens, rows in sizes)
    sizes.clear()
    Scorer(net, tokenizer, 10**6, 2).score(requests())
    assert all(rows <= 2 for _, rows in sizes)


def test_what_is_too_long_loses_its_beginning(build: Callable[..., Any], tokenizer: Bytes) -> None:
    net = build(context=16)
    context, continuation = list(range(30)), [40, 41, 42]
    scorer = Scorer(net, tokenizer, 4096)
    ((total, _),) = scorer.score([(context, continuation)])
    assert scorer.shortened == 1
    assert total == pytest.approx(plainly(net, context[-14:], continuation)[0], abs=1e-4)
    ((total, _),) = scorer.score([([1], list(range(20)))])
    assert total == pytest.approx(plainly(net, [3], list(range(4, 20)))[0], abs=1e-4)
    short = Scorer(net, tokenizer, 4096, context=8)
    ((total, _),) = short.score([(context, continuation)])
    assert total == pytest.approx(plainly(net, context[-6:], continuation)[0], abs=1e-4)


def test_written_answers_are_those_of_each_alone(build: Callable[..., Any], tokenizer: Bytes) -> None:
    net = build(context=64)
    prompts = [tokenizer.encode(text) for text in ("a", "In the beginning", "x" * 100, "And")]
    options = [Options(tokens=12, temperature=0), Options(tokens=5, temperature=0, stop=("e",))]
    asked = [(prompt, option) for prompt in prompts for option in options]
    scorer = Scorer(net, tokenizer, 256)
    answers = scorer.write(asked)
    for answer, (prompt, option) in zip(answers, asked, strict=True):
        (alone,) = write(net, tokenizer, [prompt[-(64 - option.tokens) :]], option)
        assert answer == alone
    assert scorer.shortened == 2


def test_a_row_is_as_long_as_what_is_read() -> None:
    assert Row((1, 2, 3), ((4,), (5, 6))).length == 5


@pytest.mark.parametrize("world", LAYOUTS)
def test_ranks_give_the_answers_of_one_process_in_every_layout(tmp_path: Path, world: int) -> None:
    """Ranks that share layers, or positions, read the same requests; those with copies share them out."""
    together(Path(__file__).with_name("scorer_ranks.py"), tmp_path, processes=world, seconds=900)
    scored, texts, passes = answers(begun())
    for rank in range(world):
        found = torch.load(tmp_path / f"answers-{world}-{rank}.pt")
        assert list(found) == list(LAYOUTS[world])
        for layout, (theirs, written, done) in found.items():
            assert [greedy for _, greedy in theirs] == [greedy for _, greedy in scored]
            assert [total for total, _ in theirs] == pytest.approx([total for total, _ in scored], abs=1e-9)
            assert written == texts
            assert done == (passes if layout == "tensor 2" else -(-passes // 2))
