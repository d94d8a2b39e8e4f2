"""The parts of one run of the quality benchmark: its clock, the length it chooses, its score."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from groundup.corpus.config import Bible
from groundup.data.step import Batch
from groundup.shard.manifest import Manifest
from groundup.tokenizer.config import Bytes
from groundup.verb.prepare import Prepare

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def recipes() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("recipes")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare = Prepare(source={"bible": Bible()}, tokenizer=Bytes(), held_out=0.02, path=str(tmp_path / "data"))
    prepare.check()
    return prepare.run()


def steady(recipes: ModuleType, first: float, others: float, steps: int) -> object:
    ends = [first * min(n, recipes.SKIPPED) + others * max(0, n - recipes.SKIPPED) for n in range(1, steps + 1)]
    return recipes.Run(recipes.Clock(ends), 1.5)


def job(recipes: ModuleType, **fields: object) -> object:
    return recipes.Job(**{"recipe": "default", "seed": 0, "seconds": 100.0, "data": "", **fields})


def test_steps_that_compile_count_like_the_average_of_the_others(recipes: ModuleType) -> None:
    clock = steady(recipes, first=30.0, others=0.5, steps=10).clock
    assert clock.seconds == pytest.approx(5.0)


def test_the_schedule_is_laid_over_the_steps_that_fit_into_the_time(recipes: ModuleType) -> None:
    steps, attempts, _ = recipes.fitted(
        lambda steps, timing: steady(recipes, 9.0, 0.5, 20 if timing else steps), job(recipes)
    )
    assert (steps, attempts) == (192, 1)  # the default may be done earlier, not later


def test_a_run_whose_clock_ends_far_off_is_trained_again_with_another_length(recipes: ModuleType) -> None:
    speeds = iter([0.5, 0.8, 0.8])
    lengths = []

    def trained(steps: int, timing: bool) -> object:
        lengths.append(steps)
        return steady(recipes, 9.0, next(speeds), 20 if timing else steps)

    steps, attempts, run = recipes.fitted(trained, job(recipes))
    assert lengths[1:] == [192, 120] and (steps, attempts) == (120, 2)
    assert run.clock.seconds == pytest.approx(96.0)


def test_a_peer_may_take_longer_and_the_default_may_not(recipes: ModuleType) -> None:
    for recipe, seconds_per_step, expected in (("gpt2", 1.05, 1), ("default", 1.12, 2)):
        speeds = iter([1.0, seconds_per_step, seconds_per_step])
        _, attempts, _ = recipes.fitted(
            lambda steps, timing, speeds=speeds: steady(recipes, 9.0, next(speeds), 20 if timing else steps),
            job(recipes, recipe=recipe),
        )
        assert attempts == expected


def test_a_machine_that_never_holds_still_gives_the_nearest_run_in_the_end(recipes: ModuleType) -> None:
    speeds = iter([0.5, 0.8, 0.4, 0.6, 0.5])
    steps, attempts, run = recipes.fitted(
        lambda steps, timing: steady(recipes, 9.0, next(speeds), 20 if timing else steps), job(recipes)
    )
    assert attempts == recipes.ATTEMPTS
    assert abs(run.clock.seconds - 96.0) == pytest.approx(48.0)
    assert steps == len(run.clock.ends)


def test_guessing_bytes_blindly_scores_eight_bits_per_byte_and_the_ends_of_documents(
    recipes: ModuleType, data: Path
) -> None:
    config = recipes.configure(job(recipes, data=str(data), tiny=True))

    def blind(batch: Batch) -> torch.Tensor:
        return torch.where(batch.targets_BT >= 0, 8 * math.log(2), 0.0).double()

    held_out = Manifest.read(data).splits["held_out"]["bible"]
    score = recipes.held_out(blind, torch.nn.Identity(), config)
    assert score == pytest.approx(8 * held_out.tokens / held_out.bytes, rel=1e-4)
    assert held_out.tokens == held_out.bytes + held_out.documents


def test_the_default_recipe_is_the_train_verb_as_it_is(recipes: ModuleType, data: Path) -> None:
    config = recipes.configure(job(recipes, data=str(data)))
    plain = recipes.composed(FOLDER.parent / "conf", "train", f"data.path={data}", "data.held_out_tokens=null")
    plain.check()
    for part in ("model", "optimizer", "schedule", "objective", "data"):
        assert getattr(config, part) == getattr(plain, part), part
    averages = {"ema"} & set(plain.callback)
    assert set(config.callback) == averages | {"stopwatch"}, "only what changes the weights is kept"


def test_the_gpt2_recipe_is_of_the_size_and_rate_asked_for_and_averages_nothing(
    recipes: ModuleType, data: Path
) -> None:
    config = recipes.configure(job(recipes, recipe="gpt2", data=str(data), layers=3, width=128, rate=2e-3))
    assert (config.model.layers, config.model.width, config.model.heads) == (3, 128, 2)
    assert (config.model.positions, config.model.norm, config.model.activation) == ("learned", "layer", "gelu_tanh")
    assert config.model.gain and config.model.bias and config.model.tied and not config.model.dropout
    assert (config.optimizer.kind, config.optimizer.rate) == ("adamw", 2e-3)
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.weight_decay) == (0.9, 0.95, 0.1)
    assert (config.schedule.kind, config.schedule.warmup_fraction) == ("cosine", recipes.WARM_UP)
    assert set(config.callback) == {"stopwatch"}
