"""Laws of generation: cached is uncached, a row is itself in any company, limits hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.config import from_dict
from groundup.generation import Options, sample, stream
from groundup.generation.choice import choose
from groundup.model import config as model_config  # noqa: F401  # registers the decoder
from groundup.tokenizer.byte import Bytes


def net(**options: Any) -> Any:
    torch.manual_seed(0)
    values = {"layers": 2, "width": 32, "heads": 2, "context": 48, "vocabulary": 257, "init": "gpt2", "init_std": 0.3}
    return from_dict("model", {"kind": "decoder", **values, **options}).build().eval()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"positions": "learned", "norm": "layer", "gain": True, "bias": True, "tied": True, "activation": "gelu"},
    {"kv_heads": 1, "activation": "swiglu", "shift": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_cached_greedy_text_is_that_of_whole_forward_passes(options: dict[str, Any]) -> None:
    model, tokenizer = net(**options), Bytes()
    (answer,) = sample(model, tokenizer, ["ab"], tokens=20, temperature=0)
    ids = [tokenizer.end, *tokenizer.encode("ab")]
    new: list[int] = []
    while len(new) < 20:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new]))[0, -1].argmax())
        if token == tokenizer.end:
            break
        new.append(token)
    assert answer == tokenizer.decode(new)


def test_a_row_writes_the_same_alone_and_in_company() -> None:
    model, tokenizer = net(), Bytes()
    prompts = ["a", "a longer prompt", "mid"]
    together = sample(model, tokenizer, prompts, tokens=15, temperature=0.9, seed=3)
    assert sample(model, tokenizer, prompts[:1], tokens=15, temperature=0.9, seed=3) == together[:1]
    assert len(set(together)) == 3


def test_a_min_p_of_one_writes_what_temperature_zero_writes() -> None:
    model, tokenizer = net(), Bytes()
    prompts = ["a", "a longer prompt"]
    likeliest = sample(model, tokenizer, prompts, tokens=15, temperature=0)
    assert sample(model, tokenizer, prompts, tokens=15, temperature=1.0, min_p=1.0, seed=3) == likeliest


def penalised(model: Any, ids: list[int], penalty: float) -> list[float]:
    """Logits of what follows these ids, by a whole forward pass over what the context holds, penalised one by one."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[-model.context :]]))[0, -1].tolist()
    for token in set(ids):
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return logits


def test_a_penalty_on_repetition_counts_the_prompt_and_what_was_written() -> None:
    model, tokenizer = net(), Bytes()
    prompts = ["ab", "In the beginning", "xyz", "0", "mid"]
    found = {}
    for penalty in (0.5, 1.0, 1.5):
        found[penalty] = sample(model, tokenizer, prompts, tokens=15, temperature=0, repetition_penalty=penalty)
        for prompt, answer in zip(prompts, found[penalty], strict=True):
            ids = start = [tokenizer.end, *tokenizer.encode(prompt)]
            while len(ids) < len(start) + 15:
                logits = penalised(model, ids, penalty)
                if (token := logits.index(max(logits))) == tokenizer.end:
                    break
                ids = [*ids, token]
            assert answer == tokenizer.decode(ids[len(start) :])
    assert found[0.5] != found[1.0]


def test_a_penalty_on_repetition_counts_what_has_left_the_context_too() -> None:
    model, tokenizer = net(), Bytes()
    prompt = "abcdefghijklmnopqrstuvwxyz" + "0" * 60
    logits = penalised(model, [tokenizer.end, *tokenizer.encode(prompt)], 0.01)
    likeliest = logits.index(max(logits))  # a hundred times the logit: an id of the prompt
    assert likeliest in tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
    answer = sample(model, tokenizer, [prompt], tokens=1, temperature=0, repetition_penalty=0.01)
    assert answer == [tokenizer.decode([likeliest])]


def test_another_seed_writes_another_text() -> None:
    model, tokenizer = net(), Bytes()
    assert sample(model, tokenizer, ["a"], tokens=20, seed=1) != sample(model, tokenizer, ["a"], tokens=20, seed=2)


def test_text_goes_on_beyond_the_context_and_from_prompts_longer_than_it() -> None:
    model, tokenizer = net(), Bytes()
    answers = [sample(model, tokenizer, ["a", "b" * 100], tokens=130, top_k=200, seed=seed) for seed in range(6)]
    assert max(len(short) for short, _ in answers) > 48
    assert max(len(long) for _, long in answers) > 48


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it() -> None:
    model, tokenizer = net(), Bytes()
    (whole,) = sample(model, tokenizer, ["a"], tokens=40, seed=5)
    stop = whole[10:12]
    (cut,) = sample(model, tokenizer, ["a"], tokens=40, seed=5, stop=[stop])
    assert cut == whole[: whole.index(stop)]


def test_streamed_pieces_are_the_sampled_text() -> None:
    model, tokenizer = net(), Bytes()
    for stop in ((), ("zz", "e")):
        pieces = list(stream(model, tokenizer, "a", Options(tokens=40, seed=5, stop=stop)))
        assert "".join(pieces) == sample(model, tokenizer, ["a"], tokens=40, seed=5, stop=stop)[0]


def test_sampling_leaves_training_mode_and_torchs_generator_alone() -> None:
    model = net(dropout=0.5).train()
    before = torch.get_rng_state()
    sample(model, Bytes(), ["a"], tokens=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_written_where_no_token_is_allowed() -> None:
    assert sample(net(), Bytes(), ["a", "b"], tokens=0) == ["", ""]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-50, 50).map(lambda n: n / 10), min_size=4, max_size=9, unique=True),
    st.floats(0.1, 3),
    st.integers(1, 9),
    st.floats(0.05, 1),
)
def test_only_the_likeliest_are_ever_chosen(values: list[float], temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    p = (logits[0] / temperature).softmax(dim=0)
    ranked = p.argsort(descending=True).tolist()
    allowed = ranked[:top_k]
    kept = p[allowed] / p[allowed].sum()
    allowed = [i for n, i in enumerate(allowed) if float(kept[:n].sum()) < top_p + 1e-9]
    for draw in (0.0, 0.2, 0.5, 0.9, 1 - 2.0**-53):
        assert choose(logits, [draw], temperature=temperature, top_k=top_k, top_p=top_p)[0] in allowed


def test_choices_follow_the_distribution() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().repeat(1000, 1)
    draws = [(n + 0.5) / 1000 for n in range(1000)]
    chosen = choose(logits, draws, temperature=1.0, top_k=None, top_p=None)
    assert [chosen.count(i) for i in range(4)] == pytest.approx([100, 400, 200, 300], abs=1)
