"""Laws of tensor parallelism: a net that is cut over ranks is the same function, with the same gradients and files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together
from torch.distributed import checkpoint

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.strategy.part import Share
from groundup.strategy.tensor import check, plan, share_of


def beside(path: Path) -> Any:
    """A module of the tests."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = Path(__file__).with_name("tensor_ranks.py")
ranks = beside(SCRIPT)
presets = beside(Path(__file__).parents[1] / "model" / "presets.py")
NEAR = 1e-10


def run(folder: Path, processes: int, *tasks: str) -> dict[str, list[dict[str, Any]]]:
    """What each rank found, by task."""
    together(SCRIPT, folder, *tasks, processes=processes)
    return {
        task: [torch.load(folder / f"{task}-{rank}.pt", weights_only=True) for rank in range(processes)]
        for task in tasks
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tensor")


@pytest.fixture(scope="module")
def two(folder):
    return run(folder, 2, "nets", "noise", "generation", "saved")


@pytest.fixture(scope="module")
def four(folder):
    return run(folder, 4, "four", "grid")


def assert_near(found: list[dict[str, dict[str, float]]], case: str) -> None:
    for said in found:
        far = {f"{name} of {which}": value for which in said for name, value in said[which].items() if which == case}
        assert far
        assert {name: value for name, value in far.items() if not value < NEAR} == {}


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("case", ranks.CASES)
def test_two_ranks_say_what_the_whole_net_says_and_have_its_gradients(two, case, sequence):
    assert_near(two["nets"], f"{case} sequence={sequence}")


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("case", ["llama", "narrow", "experts", "t5"])
def test_four_ranks_do_too_also_with_fewer_groups_of_keys_and_values(four, case, sequence):
    assert_near(four["four"], f"{case} sequence={sequence}")


@pytest.mark.parametrize("case", ranks.UNDIVIDED)
def test_windows_that_do_not_divide_by_the_ranks_are_read_as_any(two, case):
    assert_near(two["nets"], f"{case} undivided")


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("case", ["gpt2", "t5", "experts"])
def test_dropout_drops_what_it_drops_in_one_process(two, case, sequence):
    assert_near(two["noise"], f"{case} sequence={sequence}")


@pytest.mark.parametrize("case", ["nano", "narrow", "llama", "bloom", "gopher", "opt", "experts", "t5"])
def test_generation_and_likelihoods_are_those_of_the_whole_net(two, case):
    assert_near(two["generation"], case)


@pytest.mark.parametrize("case", ["nano", "narrow", "experts", "t5"])
def test_rows_over_two_ranks_and_matrices_over_two_give_the_whole_gradient(four, case):
    assert_near(four["grid"], case)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("case", ["nano", "narrow", "experts", "t5"])
@pytest.mark.parametrize("layout", ["", "grid-"])
def test_checkpoints_have_whole_tensors_under_plain_names(two, four, folder, case, layout):
    assert all(said[case] for said in two["saved"]), "read again on the same ranks, it is another"
    wanted = ranks.build(case).state_dict()
    read = {name: torch.full_like(tensor, torch.nan) for name, tensor in wanted.items()}
    checkpoint.load(read, checkpoint_id=folder / f"{layout}{case}")
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)


# What is cut, and what cannot be


def shares(name: str, rank: int, count: int) -> list[tuple[str, torch.Tensor, Share]]:
    values = (
        presets.values(name)
        | {"layers": 2}
        | ({"encoder_layers": 2} if "encoder_layers" in presets.values(name) else {})
    )
    config = from_dict("model", {"context": 8, "vocabulary": 128, "attention_dropout": 0.0} | values)
    check(config, count)
    with torch.device("meta"):
        net = config.build()
    found = plan(config, rank, count)
    return [
        (parameter_name, parameter, share_of(parameter_name, found))
        for parameter_name, parameter in net.named_parameters()
    ]


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_matrix_of_a_published_network_is_cut_into_equal_parts(name):
    heads = presets.preset(name, context=8, vocabulary=128).heads
    count = 2 if heads % 2 == 0 else heads
    for parameter_name, parameter, share in shares(name, count - 1, count):
        if share.cut is not None:
            ids = parameter_name.endswith(("trunk.embedding.weight", "head.weight", "head.bias"))
            assert ids or parameter.shape[share.cut] % count == 0, parameter_name
        elif parameter.dim() > 1 and ".blocks." in parameter_name and share.read is None:
            assert parameter_name.endswith("router.weight"), f"{parameter_name} stands whole on every rank"


@pytest.mark.parametrize(
    ("changed", "count", "message"),
    [
        ({}, 3, r"strategy.tensor=3: does not divide model.heads=4; choose numbers that divide"),
        ({"hidden": 25}, 2, r"strategy.tensor=2: does not divide model.hidden=25; "),
        (
            {"heads": 12, "kv_heads": 6, "head_dim": 4},
            4,
            r"=4: neither divides model.kv_heads=6 nor is a ",
        ),
        ({"vocabulary": 5}, 4, r"=4: leaves a rank without ids of model.vocabulary=5; use fewer tensor ranks"),
        (
            {"dropout": 0.1},
            2,
            r"=2: has no plan for model.attention_dropout=0.1: .*; set model",
        ),
        (
            {"kind": "encoder", "norm": "batch", "qk_norm": False},
            2,
            r"=2: has no plan for model.norm=batch; ",
        ),
    ],
)
def test_what_cannot_be_cut_is_told_in_one_line(changed, count, message):
    config = from_dict("model", {"kind": "decoder"} | ranks.SHAPE | changed)
    with pytest.raises(ConfigError, match=message) as caught:
        check(config, count)
    assert "\n" not in str(caught.value)
    check(config, 1)


def test_a_network_of_another_package_has_no_plan():
    with pytest.raises(ConfigError, match=r"strategy\.tensor=2: has no plan for model=None; choose from decoder"):
        check(object(), 2)
    config = from_dict("model", {"kind": "decoder"} | ranks.SHAPE)
    with pytest.raises(ConfigError, match=r"has no plan for the parameter trunk.blocks.0.memory.weight"):
        share_of("trunk.blocks.0.memory.weight", plan(config, 0, 2))
