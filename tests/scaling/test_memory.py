"""Laws of what ranks hold: parts add up to the whole, and only what is said to be copied is held twice."""

from __future__ import annotations

import pytest

import groundup.model.config  # noqa: F401  # registers the networks
from groundup.core.config import from_dict
from groundup.core.layout import Grid
from groundup.scaling.memory import parameters_per_rank

SHAPE = {"layers": 4, "width": 32, "heads": 4, "context": 16, "vocabulary": 96}
NETS = {
    "decoder": {"kind": "decoder", **SHAPE, "positions": "learned", "bias": True, "gain": True},
    "tied": {"kind": "decoder", **SHAPE, "tied": True},
    "experts": {"kind": "decoder", **SHAPE, "experts": 4, "activation": "swiglu"},
    "encoder": {"kind": "encoder", **SHAPE},
    "t5": {"kind": "encoder_decoder", **SHAPE, "encoder_layers": 3, "positions": "t5"},
}


@pytest.fixture(params=NETS)
def net(request):
    return from_dict("model", NETS[request.param])


def held(net, grid, **how):
    return [parameters_per_rank(net, grid, grid.place(rank), **{"sharded": False, **how}) for rank in range(grid.world)]


def test_one_rank_holds_all(net):
    assert held(net, Grid()) == [net.parameters()["total"]]


def test_data_and_context_ranks_hold_copies_or_shares(net):
    total = net.parameters()["total"]
    assert held(net, Grid(data=3, context=2)) == [total] * 6
    assert held(net, Grid(data=3, context=2), sharded=True) == pytest.approx([total / 6] * 6)


def test_tensor_ranks_share_all_but_vectors_and_positions():
    net = from_dict("model", NETS["decoder"])
    counts = net.parameters()
    copied = counts["vector"] + net.context * net.width
    assert held(net, Grid(tensor=2)) == [copied + (counts["total"] - copied) / 2] * 2


@pytest.mark.parametrize("folded", [False, True])
def test_pipeline_ranks_hold_each_number_once_but_a_tied_embedding(folded):
    for name, twice in (("decoder", 0), ("tied", 96 * 32)):
        net = from_dict("model", NETS[name])
        found = held(net, Grid(pipeline=2), folded=folded)
        assert sum(found) == net.parameters()["total"] + (0 if folded else twice)
        assert found[0] > found[1] or not folded


def test_along_all_ways_at_once_each_holds_a_part_of_a_part():
    net = from_dict("model", NETS["experts"])
    grid = Grid(pipeline=2, data=2, tensor=2)
    whole, parts = held(net, Grid(pipeline=2)), held(net, grid)
    assert parts[: grid.world // 2] == [parts[0]] * 4
    assert parts[0] == pytest.approx(whole[0] / 2, rel=0.01)
    assert parts[-1] == pytest.approx(whole[1] / 2, rel=0.01)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_experts_out_hold_copies_of_all_else(ranks):
    net = from_dict("model", NETS["experts"])
    total, banks = net.parameters()["total"], 4 * 4 * 3 * net.width * net.feedforward
    assert held(net, Grid(data=4, experts=ranks)) == [total - banks + banks / ranks] * 4
    assert held(net, Grid(data=4, experts=ranks), sharded=True) == pytest.approx([total / 4] * 4)
