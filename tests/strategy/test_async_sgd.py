"""Laws of asynchronous SGD: each step is done once, whoever dies, and no gradient is staler than the bound."""

from __future__ import annotations

import random
import signal

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.strategy.ledger import Ledger
from groundup.strategy.loose_config import AsyncSGD

STEPS = 24
ADAMW = ["optimizer=adamw", "optimizer.rate=1e-3", "objective.clip=1.0"]
CHANGE = "changes=[{tokens: 512, set: {optimizer.rate: 5e-4}}]"
"""From step 4 on."""

SERVED = ["strategy=async_sgd", *ADAMW]


@pytest.fixture(scope="module")
def three(tiny):
    """What a server and two workers counted, the second of which died; then the runs of those that were left."""
    runs = [
        tiny.overrides("served", 8, *SERVED),
        tiny.overrides("stopped", 8, *SERVED, "stop_steps=5"),
        tiny.overrides("stopped", 8, *SERVED),
        tiny.overrides("changed", 8, *SERVED, CHANGE, "stop_steps=6"),
        tiny.overrides("changed", 8, *SERVED, CHANGE),
        tiny.overrides("asked", 8, *SERVED, "callback.checkpoint.every=8", "callback=[checkpoint,asks]"),
        tiny.overrides("asked", 8, *SERVED, "callback.checkpoint.every=8", "callback=[checkpoint]"),
    ]
    ends = tiny.apart(3, *runs)
    assert ends == [0, 0, -signal.SIGKILL]
    tiny.train("alone", 8, "strategy=single", *ADAMW)
    tiny.train("alone-changed", 8, "strategy=single", *ADAMW, CHANGE)
    return tiny


@pytest.fixture(params=["bound", "free", "none", "killed"])
def counted(three, request):
    return torch.load(three.folder / f"{request.param}-0.pt", weights_only=True)


def test_each_sample_is_used_once_also_where_a_worker_dies(counted):
    assert counted["used"].tolist() == [1.0] * 2 * STEPS
    assert sorted(counted["firsts"]) == [2.0 * number for number in range(STEPS)]


def test_what_a_worker_measured_arrives_with_its_gradient(counted):
    assert counted["losses"] == [first / 2 for first in counted["firsts"]]  # the number of its step


def test_every_update_stands_in_the_histogram_once(counted):
    for row in counted["rows"]:
        many = {int(name.rpartition("/")[2]): n for name, n in row.items() if name[len("staleness/") :].isdecimal()}
        assert sum(many.values()) == 1
        assert row["staleness/mean"] == row["staleness/max"] == max(value for value, n in many.items() if n)


@pytest.mark.parametrize(("name", "bound"), [("bound", 1), ("none", 0), ("killed", 4)])
def test_no_update_is_staler_than_the_bound(three, name, bound):
    rows = torch.load(three.folder / f"{name}-0.pt", weights_only=True)["rows"]
    assert max(row["staleness/max"] for row in rows) <= bound


def test_without_a_bound_a_slow_worker_is_stale(three):
    rows = torch.load(three.folder / "free-0.pt", weights_only=True)["rows"]
    assert max(row["staleness/max"] for row in rows) >= 5  # it began before, or after, the first of six others


def test_with_a_bound_of_none_two_workers_take_turns(three):
    assert torch.load(three.folder / "none-0.pt", weights_only=True)["firsts"] == [2 * n for n in range(STEPS)]


def test_those_who_are_left_are_counted(three):
    rows = torch.load(three.folder / "killed-0.pt", weights_only=True)["rows"]
    assert {row["async/workers"] for row in rows[-5:]} == {1.0}


def test_one_worker_does_what_one_process_does_bitwise(three):
    alone, served = (three.tensors(name, 8) for name in ("alone", "served"))
    assert served.pop("strategy/drawn").tolist() == [8]
    assert alone.keys() == served.keys()
    assert all(torch.equal(value, served[name]) for name, value in alone.items())
    alone, served = (three.rows(name) for name in ("alone", "served"))
    assert all(served[name] == rows for name, rows in alone.items())
    assert (three.run("alone") / "weights.safetensors").read_bytes() == (
        three.run("served") / "weights.safetensors"
    ).read_bytes()


def test_a_stopped_run_goes_on_bitwise(three):
    whole, stopped = (three.tensors(name, 8) for name in ("served", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole | stopped)


def test_a_server_that_is_asked_to_stop_saves_its_step_and_goes_on_bitwise(three):
    run = three.run("asked")
    assert "was asked to stop, and has saved step 6" in (run / "ended-0").read_text()
    assert "the server is gone" in (run / "ended-1").read_text()
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-6", "step-8"]
    whole, stopped = (three.tensors(name, 8) for name in ("served", "asked"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole | stopped)


@pytest.mark.parametrize("step", [6, 8])
def test_workers_follow_the_server_from_segment_to_segment_and_into_a_later_one(three, step):
    alone, changed = (three.tensors(name, step) for name in ("alone-changed", "changed"))
    assert all(torch.equal(value, changed[name]) for name, value in alone.items())


# The ledger alone


def drawn_by(ledger: Ledger, workers: list[str]) -> list[int | None]:
    return [drawn and drawn.number for drawn in map(ledger.draw, workers)]


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 4, 7, None])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_paces_and_deaths_each_step_is_done_once_within_the_bound(bound, seed):
    draw, ledger = random.Random(seed), Ledger(0, [], 200, bound)
    pace = {number: draw.uniform(0.05, 1.0) for number in range(5)}
    out: dict[int, int] = {}
    done, staleness = [], []
    while not ledger.done:
        (worker,) = draw.choices(list(pace), weights=list(pace.values()))
        if worker not in out:
            drawn = ledger.draw(worker)
            if drawn is not None:
                out[worker] = drawn.number
        elif draw.random() < 0.1:
            assert ledger.lose(worker) == out.pop(worker)
        else:
            number, stale = ledger.push(worker)
            assert number == out.pop(worker)
            done.append(number)
            staleness.append(stale)
        assert sorted([*done, *ledger.missing]) == list(range(ledger.following))
        if draw.random() < 0.02:  # a checkpoint, and a start from it
            ledger, out = Ledger(ledger.following, ledger.missing, 200, bound), {}
    assert sorted(done) == list(range(200))
    if bound is None:
        assert max(staleness) > 4
    else:
        assert max(staleness) == bound or bound > 4
        assert max(staleness) <= bound


def test_a_worker_waits_until_the_slowest_is_done_and_then_goes_on():
    ledger = Ledger(0, [], 10, 2)
    assert drawn_by(ledger, ["slow", "quick"]) == [0, 1]
    assert ledger.push("quick") == (1, 0)
    assert ledger.draw("quick") == (2, 1)
    assert ledger.push("quick") == (2, 0)
    assert ledger.draw("quick") is None  # a third update would leave the slow one three behind
    assert ledger.push("slow") == (0, 2)
    assert ledger.draw("quick") == (3, 3)


def test_what_the_dead_had_is_drawn_first():
    ledger = Ledger(7, [3], 10, None)
    assert drawn_by(ledger, ["a", "b", "c"]) == [3, 7, 8]
    assert (ledger.lose("c"), ledger.lose("a"), ledger.lose("a")) == (8, 3, None)
    assert drawn_by(ledger, ["d", "e", "f", "g"]) == [3, 8, 9, None]


def test_a_worker_has_one_step_at_a_time():
    ledger = Ledger(0, [], 10, None)
    ledger.draw("a")
    with pytest.raises(ValueError, match="a has step 0"):
        ledger.draw("a")
    with pytest.raises(KeyError):
        ledger.push("b")


# Where it may run


def test_a_server_without_workers_is_refused():
    with pytest.raises(ConfigError, match="strategy=async_sgd: is a server and at least one worker"):
        AsyncSGD().check(1, None, None)


def test_every_rank_reads_whole_steps_and_the_first_leads():
    strategy = from_dict("strategy", {"kind": "async_sgd"})
    assert {strategy.share(4, rank) for rank in range(4)} == {(0, 1)}
    assert [strategy.leads(rank) for rank in range(4)] == [True, False, False, False]
