"""What the benchmarks share: rows of a record, the machine's rate, the absence of a peer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", FOLDER / "peers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_package_that_is_not_there_is_named_and_one_that_is_there_is_not(peers: ModuleType) -> None:
    assert peers.absent(["torch", "no_such_package"]) == ["no_such_package"]


def test_a_row_added_to_a_record_is_read_back_and_those_before_stay(peers: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "new" / "record.jsonl"
    assert peers.rows(record) == []
    peers.append(record, {"seed": 1})
    first = record.read_bytes()
    peers.append(record, {"seed": 2})
    assert peers.rows(record) == [{"seed": 1}, {"seed": 2}]
    assert record.read_bytes().startswith(first)


def test_measuring_the_matrix_rate_draws_no_random_number_of_the_run(peers: ModuleType) -> None:
    before = torch.get_rng_state()
    assert peers.matrix_rate(size=64, seconds=0.0) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tied_head_counts_among_the_matrices_once(peers: ModuleType) -> None:
    embedding, head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=True)
    head.weight = embedding.weight
    assert peers.matrix_parameters(torch.nn.Sequential(embedding, head)) == 40


@pytest.mark.parametrize("parts", [{}, {"activation": "swiglu"}, {"positions": "learned", "tied": True}])
def test_a_twin_has_the_matrices_of_ours(peers: ModuleType, parts: dict[str, object]) -> None:
    pytest.importorskip("transformers", reason="transformers is a peer of the benchmarks alone")
    from groundup.model import count
    from groundup.model.config import Decoder

    config = Decoder(layers=2, width=64, heads=2, context=32, vocabulary=128, **parts)
    ours = count.flops_per_token(config) / 6 - 2 * 2 * 64 * 32
    assert peers.matrix_parameters(peers.transformers_twin(config)) == ours
