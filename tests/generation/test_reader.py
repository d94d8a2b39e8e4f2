"""Laws of reading through a cache: what is read once is as if read whole, also beyond the context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from groundup.core.config import from_dict
from groundup.generation import Options, sample, write
from groundup.generation.reader import Reader
from groundup.model import config as model_config  # noqa: F401  # registers the decoder
from groundup.tokenizer.byte import Bytes

CONTEXT = 10


@pytest.fixture(params=[{}, {"positions": "learned"}, {"shift": True, "kv_heads": 1}], ids=str)
def net(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    values = {"layers": 2, "width": 32, "heads": 2, "context": CONTEXT, "vocabulary": 257, "init": "gpt2"}
    return from_dict("model", {"kind": "decoder", "init_std": 0.3, **values, **request.param}).build().eval()


def windows(row: list[int], tokens: int) -> list[list[int]]:
    """What a row of unlimited memory would read before each of its last `tokens` tokens."""
    prompt, seen = row[: len(row) - tokens][-CONTEXT:], []
    for token in row[len(row) - tokens :]:
        seen.append(list(prompt))
        prompt = [*prompt, token] if len(prompt) < CONTEXT else [*prompt, token][-CONTEXT // 2 :]
    return seen


@torch.no_grad()
def whole(net: Any, row: list[int], tokens: int) -> list[Tensor]:
    """Logits before each of a row's last tokens, without a cache."""
    return [net(torch.tensor([window]))[0, -1] for window in windows(row, tokens)]


def test_rows_of_unequal_length_read_on_beyond_the_context_as_if_each_were_read_whole(net: Any) -> None:
    draw, tokens = torch.Generator().manual_seed(1), 25
    rows = [torch.randint(0, 257, (n + tokens,), generator=draw).tolist() for n in (1, 7, 10, 23)]
    reader = Reader(net, [row[:-tokens] for row in rows], tokens)
    expected = [whole(net, row, tokens) for row in rows]
    logits = reader.start()
    for step in range(tokens):
        for row in range(len(rows)):
            torch.testing.assert_close(logits[row], expected[row][step], rtol=1e-4, atol=1e-4)
        if step + 1 < tokens:
            logits = reader.add([row[step - tokens] for row in rows])


def test_rows_that_stay_read_on_when_others_leave(net: Any) -> None:
    rows = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
    reader = Reader(net, rows, 8)
    reader.start()
    reader.keep([2, 0])
    logits = reader.add([11, 12])
    for place, row in enumerate(([8, 9, 10, 11], [1, 2, 3, 4, 5, 12])):
        torch.testing.assert_close(logits[place], net(torch.tensor([row]))[0, -1].detach(), rtol=1e-4, atol=1e-4)


def test_a_row_writes_the_same_in_any_company_beyond_the_context_too(net: Any) -> None:
    prompts = ["a", "a longer prompt than the context", "middle"]
    options: dict[str, Any] = {"tokens": 40, "temperature": 0.7, "seed": 3}
    together = sample(net, Bytes(), prompts, **options)
    assert sample(net, Bytes(), prompts[:1], **options) == together[:1]
    assert sample(net, Bytes(), [prompts[0], "b" * 17, prompts[2]], **options)[2] == together[2]


def test_a_step_to_be_compiled_reads_as_any_other(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    draw, tokens = torch.Generator().manual_seed(1), 25
    rows = [torch.randint(0, 257, (n + tokens,), generator=draw).tolist() for n in (1, 7, 10, 23)]
    for some in (rows, rows[1:2]):
        plain, compiled = (Reader(net, [row[:-tokens] for row in some], tokens, compile) for compile in (False, True))
        logits, other = plain.start(), compiled.start()
        for step in range(tokens - 1):
            torch.testing.assert_close(other, logits, rtol=1e-4, atol=1e-4)
            logits, other = (reader.add([row[step - tokens] for row in some]) for reader in (plain, compiled))


def test_answers_of_a_compiled_step_are_those_of_the_plain_one(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    prompts = ["a", "In the beginning", "xyz"]
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "stop": ("e", "\x00")}):
        plain, compiled = (
            write(
                net, Bytes(), [[256, *prompt.encode()] for prompt in prompts], Options(tokens=12, compile=c, **options)
            )
            for c in (False, True)
        )
        assert compiled == plain
