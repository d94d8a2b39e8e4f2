"""Laws of what an encoder-decoder writes: to its own source, as if read whole, in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.generation import Options, sample, stream, write
from groundup.generation.beam import search
from groundup.generation.reader import Reader, source
from groundup.model import config as model_config  # noqa: F401  # registers the networks
from groundup.tokenizer.byte import Bytes

CONTEXT = 12
TOKENIZER = Bytes()
PROMPTS = ["a", "In the", "beginning", ""]


@pytest.fixture(params=[{}, {"positions": "t5"}, {"positions": "learned", "kv_heads": 1, "start": 3}], ids=str)
def net(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    values = {"layers": 2, "width": 32, "heads": 2, "context": CONTEXT, "vocabulary": 257, "init": "gpt2"}
    return from_dict("model", {"kind": "encoder_decoder", "init_std": 0.3, **values, **request.param}).build().eval()


@torch.no_grad()
def greedily(net: Any, prompt: str, tokens: int) -> str:
    """The likeliest text, read whole for every token."""
    read = torch.tensor([[*TOKENIZER.encode(prompt), TOKENIZER.end]])
    row, start = [TOKENIZER.end if net.config.start is None else net.config.start], 0
    for _ in range(tokens):
        if len(row) - start > CONTEXT:
            start = len(row) - CONTEXT // 2
        chosen = int(net(torch.tensor([row[start:]]), source_BS=read)[0, -1, :257].argmax())
        if chosen == TOKENIZER.end:
            break
        row.append(chosen)
    return TOKENIZER.decode(row[1:])


def test_unequal_sources_are_each_written_to_as_if_alone_and_read_whole(net: Any) -> None:
    found = sample(net, TOKENIZER, PROMPTS, tokens=9, temperature=0)
    assert found == [greedily(net, prompt, 9) for prompt in PROMPTS]
    assert len(set(found)) > 1, "sources that change nothing prove nothing"


def test_what_is_written_may_outgrow_the_context(net: Any) -> None:
    reader = Reader(net, [source([257 - 1, 5, 6], 256), [7, 256]], 20, start=1)
    logits = [reader.start(), *(reader.add([token, token + 1]) for token in range(19))]
    rows = [[1, *range(19)], [1, *range(1, 20)]]
    for row, read in zip((0, 1), ([5, 6, 256], [7, 256]), strict=True):
        start = 0
        for length in range(1, 21):
            if length - start > CONTEXT:
                start = length - CONTEXT // 2
            with torch.no_grad():
                whole = net(torch.tensor([rows[row][start:length]]), source_BS=torch.tensor([read]))[0, -1]
            torch.testing.assert_close(logits[length - 1][row], whole, rtol=1e-4, atol=1e-4)


def test_pieces_of_a_stream_are_the_text_and_noise_is_keyed_by_the_prompt(net: Any) -> None:
    options = Options(tokens=10, temperature=1.0, top_k=20, seed=4)
    alone = "".join(stream(net, TOKENIZER, PROMPTS[0], options))
    assert alone == sample(net, TOKENIZER, PROMPTS, tokens=10, top_k=20, seed=4)[0]
    rows = [[TOKENIZER.end, *TOKENIZER.encode(prompt)] for prompt in PROMPTS]
    assert write(net, TOKENIZER, rows[2:3], options, [2]) == write(net, TOKENIZER, rows, options)[2:3]


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(net: Any) -> None:
    whole = sample(net, TOKENIZER, ["beginning"], tokens=9, temperature=0)[0]
    stop = whole[3:5]
    assert sample(net, TOKENIZER, ["beginning"], tokens=9, temperature=0, stop=[stop])[0] == whole[: whole.find(stop)]


@torch.no_grad()
def test_beams_find_an_answer_at_least_as_likely_as_the_greedy_one(net: Any) -> None:
    prompt, start = [*TOKENIZER.encode("In the"), TOKENIZER.end], net.config.start
    start = TOKENIZER.end if start is None else start

    def likelihood(ids: list[int]) -> float:
        log_p = net(torch.tensor([[start, *ids[:-1]]]), source_BS=torch.tensor([prompt]))[0, :, :257].log_softmax(-1)
        return float(log_p[torch.arange(len(ids)), ids].sum())

    def found(beams: int) -> list[int]:
        answer = search(net, prompt, end=256, vocabulary=257, beams=beams, tokens=3, length_penalty=0.0)
        return answer if len(answer) == 3 else [*answer, 256]

    every = [[a, b, c] for a in range(257) for b, c in [divmod(n, 257) for n in range(0, 257 * 257, 97)]]
    assert likelihood(found(300)) >= likelihood(found(1)) - 1e-4
    assert all(likelihood(found(300)) >= likelihood(ids) - 1e-4 for ids in every[::4001])


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_a_compiled_step_writes_the_same(net: Any) -> None:
    if net.config.positions != "t5":
        return  # half a minute of compiling says no more for the others
    options = {"tokens": 6, "temperature": 0.0}
    rows = [[TOKENIZER.end, *TOKENIZER.encode(prompt)] for prompt in PROMPTS[1:3]]
    assert write(net, TOKENIZER, rows, Options(**options, compile=True)) == write(
        net, TOKENIZER, rows, Options(**options)
    )
