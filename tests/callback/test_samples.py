"""Samples during training: written, put back where they belong by a resume, and never felt by the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundup.callback import config
from groundup.callback.ema import Ema
from groundup.callback.samples import PAGE, RECORDS, Samples, add, read, rewind, undisturbed
from groundup.core.errors import DataError
from groundup.model.config import Decoder
from groundup.tokenizer.byte import Bytes


def language(module: Any) -> None:
    """Make the test module a language model with dropout."""
    model = Decoder(layers=1, width=16, heads=2, context=24, vocabulary=Bytes.vocabulary, dropout=0.3)
    module.nets = nn.ModuleDict({"model": model.build()})
    module.tokenizer = Bytes()
    module.score = lambda batch: module.nets["model"](tokens(batch), tokens(batch)).mean()


def tokens(batch: Tensor) -> Tensor:
    return (batch.abs() * 100).long().clamp(max=255)


def samples(**options: Any) -> Samples:
    return Samples(config.Samples(**{"tokens": 6, "prompts": ["In the", "日本"], **options}))


def weights(module: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.nets.parameters()]


def test_sampling_changes_no_bit_of_the_weights_with_dropout_on(run) -> None:
    plain, _ = run(folder="plain", prepare=language)
    sampled, _ = run(samples(every=1), folder="sampled", prepare=language)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(sampled), strict=True))
    assert (plain.folder / "metrics.csv").read_bytes() == (sampled.folder / "metrics.csv").read_bytes()
    assert [record["step"] for record in read(sampled.folder)] == [s for s in range(1, 7) for _ in range(2)]


def test_samples_are_written_at_the_end_once_and_keyed_by_seed_and_step(run) -> None:
    once, _ = run(samples(every=6), folder="once", prepare=language)
    again, _ = run(samples(), folder="again", prepare=language)
    other, _ = run(samples(seed=1), folder="other", prepare=language)
    assert read(once.folder) == read(again.folder) != read(other.folder)
    first = read(once.folder)[0]
    assert (first["step"], first["tokens"], first["averaged"], first["prompt"]) == (6, 192, False, "In the")


def test_with_averages_it_is_they_that_write(run) -> None:
    ema = Ema(config.Ema(decay=0.5))
    module, _ = run(ema, samples(every=3), prepare=language)
    assert all(record["averaged"] for record in read(module.folder))
    assert "averaged weights" in (module.folder / PAGE).read_text()
    assert not torch.equal(weights(module)[0], next(iter(ema.state().values())))


def test_a_prompt_that_leaves_no_room_for_all_tokens_gets_what_room_there_is(run) -> None:
    module, _ = run(
        samples(tokens=500, prompts=["In", "a prompt that is far longer than the context"]), prepare=language
    )
    assert len(read(module.folder)) == 2


def test_a_resumed_run_drops_the_samples_of_steps_to_be_done_again(run) -> None:
    module, _ = run(samples(every=2), steps=6, prepare=language)
    run(samples(every=2), steps=2, done=3, prepare=language)
    assert [record["step"] for record in read(module.folder)] == [2, 2, 4, 4, 5, 5]


def test_a_model_without_text_writes_none(run) -> None:
    module, _ = run(samples(every=1), steps=2)
    assert not (module.folder / RECORDS).exists()


def test_modes_and_generators_are_as_before(run) -> None:
    module, _ = run(steps=1, prepare=language)
    frozen = next(module.nets["model"].children())
    frozen.eval()
    before = {part: part.training for part in module.nets.modules()}
    state = torch.get_rng_state()
    with pytest.raises(KeyError), undisturbed(module):
        assert not any(part.training for part in module.nets.modules())
        torch.randn(3)
        raise KeyError
    assert {part: part.training for part in module.nets.modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_page_shows_any_text_as_it_is_newest_first(tmp_path: Path) -> None:
    old = {"step": 1, "tokens": 10, "averaged": False, "prompt": "a", "text": "\n# not a heading\n```\ncode\n```"}
    add(tmp_path, [old])
    add(tmp_path, [{**old, "step": 2000, "tokens": 20_000, "text": " plain"}])
    page = (tmp_path / PAGE).read_text()
    assert page.index("## Step 2,000 (20.0k tokens)") < page.index("## Step 1 (10 tokens)")
    assert "\n````\na\n# not a heading\n```\ncode\n```\n````" in page
    assert [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()] == read(tmp_path)
    rewind(tmp_path, 1999)
    assert read(tmp_path) == [old] and "2,000" not in (tmp_path / PAGE).read_text()


def test_damaged_records_are_named(tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text('{"step": 1\n')
    with pytest.raises(DataError, match=r"samples\.jsonl"):
        read(tmp_path)
