"""Laws of context parallelism: ranks that share the positions of a sample add up to the same function and gradients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid
from groundup.data.step import Batch, Step
from groundup.model import config  # noqa: F401  # registers the kinds
from groundup.strategy import mesh_config  # noqa: F401  # likewise
from groundup.strategy.context import places_of
from groundup.strategy.cutting import check_context

sys.path.insert(0, str(Path(__file__).parent))
from context_ranks import CASES
from tensor_ranks import SHAPE

SCRIPT = Path(__file__).with_name("context_ranks.py")
NEAR = 1e-10


def run(folder: Path, processes: int, *tasks: str) -> dict[str, list[Any]]:
    """What each rank found, by task."""
    together(SCRIPT, folder, *tasks, processes=processes)
    return {
        task: [torch.load(folder / f"{task}-{rank}.pt", weights_only=True) for rank in range(processes)]
        for task in tasks
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("context"), 2, "nets", "again", "alone", "refused", "kept")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return run(tmp_path_factory.mktemp("context"), 4, "four", "grid")


def assert_near(found: list[dict[str, dict[str, float]]], case: str) -> None:
    for said in found:
        assert said[case]
        assert {name: value for name, value in said[case].items() if not value < NEAR} == {}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_add_up_to_what_the_whole_net_says_and_to_its_gradients(two, case, packed):
    """Of every scheme of positions and mask, of rows of one document and of several that end anywhere."""
    assert_near(two["nets"], f"{case} packed={packed}")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", ["nano", "mistral", "experts"])
def test_four_ranks_do_too(four, case, packed):
    assert_near(four["four"], f"{case} packed={packed}")


@pytest.mark.parametrize("case", ["nano", "bloom", "experts"])
def test_positions_and_matrices_can_be_shared_at_once(four, case):
    assert_near(four["grid"], f"{case} tensor")


def test_weights_can_be_cut_over_ranks_that_share_positions_and_others(four):
    assert_near(four["grid"], "nano sharded")


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_blocks_can_be_computed_again_with_what_ranks_tell_each_other(two, kind):
    assert_near(two["again"], kind)


@pytest.mark.parametrize("case", ["nano", "bloom", "gopher", "mistral", "experts"])
def test_generation_likelihoods_and_logits_are_those_of_the_whole_net_on_every_rank(two, case):
    assert_near(two["alone"], case)


def test_a_window_that_cannot_be_cut_into_equal_chunks_is_refused(two):
    assert two["refused"] == ["a window of 14 positions for 2 ranks, which need 4 chunks"] * 2


@pytest.mark.parametrize("case", ["llama", "again"])
def test_a_rank_keeps_half_of_what_one_alone_keeps_for_the_backward_pass(two, case):
    for said in two["kept"]:
        assert said[case]["shared"] < 0.53 * said[case]["alone"]


# Who has what


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_have_all_chunks_between_them_and_equal_work_under_a_causal_mask(ranks):
    every = [places_of(rank, ranks) for rank in range(ranks)]
    assert sorted(chunk for pair in every for chunk in pair) == list(range(2 * ranks))
    assert len({sum(pair) for pair in every}) == 1, "chunk i sees i chunks and a half"


def test_a_step_with_targets_at_some_positions_keeps_all_else():
    tokens, targets = torch.arange(12).view(2, 6), torch.arange(12).view(2, 6) + 1
    targets[0, 5] = -100
    step = Step(3, 4, 24, 22, 12, [Batch(tokens, targets)], [7])
    one, other = (step.only(lambda length, _, mine=mine: torch.tensor(mine)) for mine in ([0, 5], [1, 2, 3, 4]))
    assert (one.targets, one.tokens, one.micro_numbers) == (22, 24, [7])
    assert torch.equal(one.micro_batches[0].tokens_BT, tokens)
    assert one.micro_batches[0].targets() + other.micro_batches[0].targets() == step.micro_batches[0].targets()
    assert one.micro_batches[0].targets_BT.tolist() == [[1, *[-100] * 5], [7, *[-100] * 4, 12]]


# What is laid out so, and what cannot be


def test_ranks_that_differ_in_context_alone_read_the_same_samples():
    sharded, copied = from_dict("strategy", {"kind": "fsdp", "context": 2}), from_dict("strategy", {"kind": "context"})
    assert sharded.grid(8) == Grid(data=4, context=2)
    assert copied.grid(8) == Grid(context=8)
    assert [sharded.share(8, rank) for rank in range(4)] == [(0, 4), (0, 4), (1, 4), (1, 4)]


def test_ranks_of_which_context_is_no_share_are_told_in_one_line():
    with pytest.raises(ConfigError, match=r"needs a multiple of 1 x 2 x 1 processes, pipeline x context x tensor"):
        from_dict("strategy", {"kind": "fsdp", "context": 2}).grid(3)


@pytest.mark.parametrize(
    ("changed", "length", "message"),
    [
        ({}, 18, r"data.context=18: cannot be cut into 4 equal chunks, .*; choose a multiple of 4"),
        ({"kind": "encoder"}, 16, r"strategy.context=2: has no plan for model=encoder; "),
        ({"kind": "encoder_decoder"}, 16, r"strategy.context=2: has no plan for model=encoder_decoder; "),
        ({"dropout": 0.1}, 16, r"strategy.context=2: has no plan for model.dropout=0.1: .*; set model.dropout=0"),
        ({"attention_dropout": 0.1}, 16, r"has no plan for model.attention_dropout=0.1: "),
    ],
)
def test_what_cannot_be_shared_is_told_in_one_line(changed, length, message):
    model = from_dict("model", {"kind": "decoder"} | SHAPE | changed)
    with pytest.raises(ConfigError, match=message) as caught:
        check_context(model, 2, length)
    assert "\n" not in str(caught.value)
    check_context(model, 1, length)
