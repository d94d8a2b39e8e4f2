"""Laws of local SGD: it is synchronous SGD where workers meet at each step, and else what its equations say."""

from __future__ import annotations

import math
import os
from unittest import mock

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.data.config import Shards

SGD = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.rate=0.1"]
OUTER = ["strategy=local_sgd", "strategy.every=4", "optimizer=adamw", "optimizer.rate=1e-3"]
MEET = ["strategy=local_sgd", "strategy.every=1", "strategy.outer_rate=1", "strategy.outer_momentum=0"]
QUIET = ["trainer.validate_every=null", "callback.checkpoint.every=null", "stop_steps=40", *SGD]
EVERY_20 = ["strategy=local_sgd", "strategy.every=20"]


@pytest.fixture(scope="module")
def two(tiny):
    """The runs of two workers, and the bytes that each handed to all-reduce."""
    runs = [
        tiny.overrides("together", 41, "strategy=ddp", *QUIET),
        tiny.overrides("apart", 41, *EVERY_20, *QUIET),
        tiny.overrides("rounded", 41, *EVERY_20, "strategy.travel=bf16", *QUIET),
        tiny.overrides("meeting", 7, *MEET, *SGD, "stop_steps=6"),
        tiny.overrides("outer", 10, *OUTER),
        tiny.overrides("stopped", 10, *OUTER, "stop_steps=6"),
        tiny.overrides("stopped", 10, *OUTER),
        tiny.overrides("fewer", 10, *OUTER, "stop_steps=6"),
    ]
    travelled = tiny.together(2, *runs)
    tiny.train("alone", 7, "strategy=single", *SGD, "stop_steps=6")
    return tiny, travelled


def weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith("nets/")}


def test_workers_that_meet_at_each_step_and_average_do_synchronous_sgd(two):
    tiny, _ = two
    alone, meeting = (weights(tiny.tensors(name, 6)) for name in ("alone", "meeting"))
    assert not any(torch.equal(value, weights(tiny.tensors("alone", 5))[name]) for name, value in alone.items())
    for name, value in alone.items():
        torch.testing.assert_close(meeting[name], value, atol=1e-13, rtol=0)


@pytest.fixture(scope="module")
def by_hand(two) -> dict[int, dict[str, torch.Tensor]]:
    """The run `outer` written out for both workers: the outer weights after each step."""
    tiny, _ = two
    config = tiny.composed("train", *tiny.overrides("outer", 10, *OUTER))
    config.check()
    torch.manual_seed(0)
    steps = [config.data.build(0, Progress(), 10, rank, 2).steps for rank in range(2)]
    start = weights(tiny.tensors("outer", 1))
    outer = {name.removeprefix("nets/model."): value.clone() for name, value in start.items()}
    nets, optimizers = [], []
    for _ in range(2):
        net = config.model.build().double()
        net.load_state_dict(outer)
        nets.append(net)
        optimizers.append(config.optimizer.build([(f"model.{name}", value) for name, value in net.named_parameters()]))
    velocity = {name: torch.zeros_like(value) for name, value in outer.items()}
    found = {}
    for number in range(10):
        for net, optimizer, part in zip(nets, optimizers, steps, strict=True):
            losses = torch.cat([net(**batch.there()).flatten() for batch in part[number].micro_batches])
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if number + 1 in (4, 8, 10):
            for name in outer:
                both = [dict(net.named_parameters())[name].detach() for net in nets]
                delta = outer[name] - (both[0] + both[1]) / 2
                velocity[name] = 0.9 * velocity[name] + delta
                outer[name] = outer[name] - 0.7 * (delta + 0.9 * velocity[name])
            for net in nets:
                net.load_state_dict(outer)
        found[number + 1] = dict(outer)
    return found


@pytest.mark.parametrize("step", range(1, 11))
def test_outer_steps_are_those_of_the_equations_written_out(two, by_hand, step):
    tiny, _ = two
    found = weights(tiny.tensors("outer", step))
    assert len(found) == len(by_hand[step])
    for name, value in by_hand[step].items():
        torch.testing.assert_close(found[f"nets/model.{name}"], value, atol=1e-10, rtol=0)


def test_held_out_text_is_measured_at_the_outer_weights(two):
    tiny, _ = two
    held_out = tiny.rows("outer")["held_out/all"]
    assert held_out[4] == held_out[6] != held_out[8] == tiny.rows("outer")["held_out/all"][8]
    assert held_out[2] == pytest.approx(8.0, abs=0.2)  # nothing was learned so far


def test_a_run_stopped_between_outer_steps_goes_on_bitwise(two):
    tiny, _ = two
    for step in (7, 10):
        whole, stopped = (tiny.tensors(name, step) for name in ("outer", "stopped"))
        assert whole.keys() == stopped.keys()
        assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    apart = tiny.tensors("outer", 6)
    first, second = (
        {name: value for name, value in apart.items() if name.startswith(f"strategy/worker-{rank}/weights")}
        for rank in (0, 1)
    )
    assert first and not any(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
    assert (tiny.run("outer") / "metrics.csv").read_bytes() == (tiny.run("stopped") / "metrics.csv").read_bytes()


def test_another_number_of_workers_goes_on(two):
    tiny, _ = two
    with mock.patch.dict(os.environ):  # Lightning writes an address there
        tiny.train("fewer", 10, *OUTER)
    torch.distributed.destroy_process_group()
    rows = tiny.rows("fewer")
    assert sorted(rows["train/loss"]) == list(range(1, 11))
    assert all(math.isfinite(value) for value in rows["train/loss"].values())


def test_what_travels_is_counted_and_at_most_an_eighteenth_of_what_gradients_take(two):
    tiny, (together, apart, rounded, *_) = two
    size = sum(value.numel() * value.element_size() for value in weights(tiny.tensors("together", 40)).values())
    logged = tiny.rows("apart")
    assert logged["outer/bytes"] == {20: size, 40: size}
    assert logged["outer/total_bytes"] == {20: size, 40: 2 * size}
    measuring = apart - 2 * size  # what ranks tell each other at saves, the same in all
    assert 0 <= measuring < 0.01 * size
    assert together - measuring >= 40 * size
    assert 18 * (apart - measuring) <= together - measuring
    assert rounded - measuring == 2 * size / 4  # a double is four bf16
    assert tiny.rows("rounded")["outer/total_bytes"][40] == 2 * size / 4


def test_rounding_what_travels_moves_the_weights_a_little(two):
    tiny, _ = two
    exact, rounded = (weights(tiny.tensors(name, 40)) for name in ("apart", "rounded"))
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, atol=1e-2, rtol=0)
    assert not all(torch.equal(rounded[name], value) for name, value in exact.items())


@pytest.mark.parametrize(
    ("world", "rows", "says"),
    [
        (3, 2, "data.batch_tokens=128: are 8 samples a step, and 3 workers share them evenly; set it to 96 or another"),
        (2, 3, "data.micro_batch=3: does not divide the 4 samples of each of 2 workers; set it to 2"),
        (16, 8, "data.batch_tokens=128: are 8 samples a step, and 16 workers share them evenly; set it to 256"),
    ],
)
def test_a_batch_that_workers_cannot_share_evenly_is_refused(world, rows, says):
    strategy = from_dict("strategy", {"kind": "local_sgd"})
    with pytest.raises(ConfigError, match=says):
        strategy.check(world, None, Shards(context=16, batch_tokens=128, micro_batch=rows))


def test_what_decides_what_is_learned_is_part_of_a_runs_identity_and_machinery_is_not():
    usual = from_dict("strategy", {"kind": "local_sgd"}).mathematics()
    assert usual != from_dict("strategy", {"kind": "local_sgd", "every": 50}).mathematics()
    assert usual == from_dict("strategy", {"kind": "local_sgd", "timeout_minutes": 1.0}).mathematics()
    assert from_dict("strategy", {"kind": "ddp"}).mathematics() is None
