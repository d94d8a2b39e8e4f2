"""Laws of the policies, on made-up records of runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch

from groundup.callback.baseline import Baseline
from groundup.callback.config import POLICIES, Recovery
from groundup.callback.policy import GO, ROLL_BACK, SKIP, STOP, Escalate, Signals, Verdict
from groundup.callback.published import LlmFoundry, OlmoCore, policy_of
from groundup.core.errors import ConfigError

FAST: dict[str, Any] = {"window": 64, "active_after": 32, "slow_patience": 200, "slow_memory": 30}


def noise(steps: int, seed: int = 0, tail: str = "normal", width: float = 0.05) -> list[Signals]:
    """A loss that falls as in a run's warm-up and then slowly, and a norm with a long tail."""
    draw = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        around = draw.gauss(0, 1) if tail == "normal" else draw.expovariate(1) * draw.choice((-1, 1))
        loss = 3 + 7 * math.exp(-step / 150) - 0.1 * math.log(step) + width * around
        rows.append(Signals(step, loss, draw.lognormvariate(1.5 * math.exp(-step / 300), 0.5)))
    return rows


def decisions(policy: Any, rows: Iterable[Signals]) -> list[tuple[int, Verdict]]:
    """Every verdict other than to go on."""
    return [(row.step, verdict) for row in rows if (verdict := policy.observe(row)).action != GO]


def changed(rows: Sequence[Signals], where: range, loss: Callable[[int], float], norm: float = 1.0) -> list[Signals]:
    """The same with something added to the loss of some steps, and their norm multiplied."""
    return [Signals(row.step, row.loss + loss(row.step), row.norm * norm) if row.step in where else row for row in rows]


@pytest.mark.parametrize("tail", ["normal", "exponential"])
def test_nothing_is_decided_in_twenty_thousand_steps_of_clean_noise(tail: str) -> None:
    assert decisions(Escalate(Recovery()), noise(20_000, 1, tail)) == []


def test_a_planned_jump_is_no_spike_but_an_unplanned_one_is() -> None:
    rows = changed(noise(1500), range(801, 1501), lambda _: 1.0, norm=3.0)
    assert decisions(Escalate(Recovery(), changes=[800]), rows) == []
    step, verdict = decisions(Escalate(Recovery()), rows)[-1]
    assert verdict.action == ROLL_BACK
    assert step >= 809


def test_a_spike_that_stays_is_skipped_at_first_and_then_gone_back_from() -> None:
    rows = changed(noise(1000), range(701, 1001), lambda _: 2.0, norm=100.0)
    found = decisions(Escalate(Recovery()), rows[:710])
    assert [(step, verdict.action) for step, verdict in found] == [(701, SKIP), (702, SKIP), (710, ROLL_BACK)]
    back = found[-1][1]
    assert (back.before, back.skip_until) == (600, 900)
    assert (back.rate, back.embedding) == (1.0, 1.0)
    assert back.evidence["loss_sigmas"] > 8


def test_a_spike_that_heals_by_itself_is_not_gone_back_from() -> None:
    rows = changed(noise(1000), range(701, 707), lambda _: 2.0, norm=30.0)
    assert {verdict.action for _, verdict in decisions(Escalate(Recovery()), rows)} == {SKIP}


def test_the_run_goes_back_to_before_the_first_sign() -> None:
    rows = changed(noise(1000), range(680, 701), lambda step: 0.3, norm=20.0)
    rows = changed(rows, range(701, 1001), lambda _: 2.0, norm=20.0)
    back = next(verdict for _, verdict in decisions(Escalate(Recovery()), rows) if verdict.action == ROLL_BACK)
    assert back.before == 680 - 1 - 100


def test_a_norm_far_above_what_is_usual_is_skipped_alone() -> None:
    rows = changed(noise(1000), range(701, 702), lambda _: 0.0, norm=1e4)
    assert [(step, verdict.action) for step, verdict in decisions(Escalate(Recovery()), rows)] == [(701, SKIP)]


def test_a_batch_of_odd_text_whose_gradient_is_four_times_the_usual_is_trained_on() -> None:
    rows = changed(noise(1000), range(701, 702), lambda _: 1.6, norm=4.0)
    assert decisions(Escalate(Recovery()), rows) == []


def test_what_is_not_finite_is_skipped_and_gone_back_from_when_it_stays() -> None:
    for bad in (math.nan, math.inf):
        rows = changed(noise(500), range(300, 302), lambda _, bad=bad: bad)  # type: ignore[misc]  # a default is no argument
        assert [verdict.action for _, verdict in decisions(Escalate(Recovery()), rows)] == [SKIP, SKIP]
        rows = changed(noise(500), range(3, 6), lambda _: 0.0, norm=bad)
        found = decisions(Escalate(Recovery()), rows)
        assert [(step, verdict.action) for step, verdict in found] == [(3, SKIP), (4, SKIP), (5, ROLL_BACK)]
        assert found[-1][1].before == 0


def test_slow_growth_is_answered_by_a_lower_rate_and_no_skipping() -> None:
    rows = changed(noise(6000), range(3001, 6001), lambda step: (step - 3000) * 2e-4)
    step, verdict = decisions(Escalate(Recovery()), rows)[0]
    assert (verdict.action, verdict.skip_until, verdict.rate) == (ROLL_BACK, None, 0.67)
    assert 3500 < step < 4500
    assert verdict.before < 3001


def test_a_spike_shows_while_the_loss_still_falls_fast() -> None:
    rows = changed(noise(300), range(101, 301), lambda _: 1.0, norm=100.0)
    assert [step for step, _ in decisions(Escalate(Recovery()), rows[:110])] == [101, 102, 110]


def test_measures_escalate_near_one_place_and_not_elsewhere() -> None:
    rows = changed(noise(1000), range(701, 1001), lambda _: 2.0, norm=30.0)

    def back(*tried: int) -> Verdict:
        return decisions(Escalate(Recovery(), tried=tried), rows[:710])[-1][1]

    assert [(v.rate, v.embedding) for v in (back(), back(800), back(800, 720))] == [(1, 1), (0.67, 1), (1, 0.1)]
    stopped = back(800, 720, 730)
    assert stopped.action == STOP
    assert "3 roll-backs" in stopped.why
    assert "lower rate" in stopped.why
    assert back(5000, 6000, 7000).rate == 1
    assert decisions(Escalate(Recovery(most=1), tried=[5000]), rows[:710])[-1][1].action == STOP


def test_a_checkpoint_before_the_first_sign_is_wanted_as_long_as_the_sign_stands() -> None:
    policy = Escalate(Recovery())
    rows = changed(noise(1000), range(701, 1001), lambda _: 2.0, norm=30.0)
    safe = []
    for row in rows[:709]:
        policy.observe(row)
        safe.append(policy.safe(row.step))
    assert safe[699] == 499
    assert all(490 < step <= 500 for step in safe[700:])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_goes_on_bitwise_from_its_state_as_tensors(name: str) -> None:
    rows = changed(noise(400), range(350, 400), lambda step: (step - 350) * 0.2, norm=9.0)
    for stop in (0, 1, 40, 200, 355):
        whole, first, second = (policy_of(Recovery(policy=name, **FAST)) for _ in range(3))
        for row in rows[:stop]:
            whole.observe(row)
            first.observe(row)
        tensors = {key: torch.tensor(values, dtype=torch.float64) for key, values in first.state().items()}
        assert {key: len(values) for key, values in tensors.items()} == {
            key: len(values) for key, values in second.state().items()
        }
        second.load_state({key: values.tolist() for key, values in tensors.items()})
        assert [whole.observe(row) for row in rows[stop:]] == [second.observe(row) for row in rows[stop:]]


def test_the_published_rules_are_as_published() -> None:
    rows = noise(200, width=0.05)[100:]
    for number, row in enumerate(rows):
        before = torch.tensor([r.loss for r in rows[:number]], dtype=torch.float64)
        limit = float(before.mean() + 6 * before.std()) if number >= 63 else math.inf
        for beyond in (1e-6, -1e-6):
            policy = OlmoCore()
            for earlier in rows[:number]:
                policy.observe(earlier)
            verdict = policy.observe(Signals(row.step, limit + beyond if number >= 63 else 99.0, 0.0))
            assert verdict.action == (SKIP if number >= 63 and beyond > 0 else GO)
    rule = LlmFoundry()
    flat = [Signals(step, 2.0, 1.0) for step in range(1, 101)] + [Signals(step, 6.0, 1.0) for step in range(101, 120)]
    assert decisions(rule, flat)[0][0] == 105


def test_one_bad_value_does_not_silence_a_published_rule() -> None:
    policy = OlmoCore()
    rows = changed(noise(300, width=0.01), range(150, 151), lambda _: math.nan)
    assert [step for step, _ in decisions(policy, rows)] == [150]


def test_the_baseline_is_the_median_and_its_absolute_deviation() -> None:
    draw = random.Random(3)
    baseline = Baseline(31)
    values: list[float] = []
    for _ in range(100):
        values.append(draw.choice((draw.gauss(1, 2), draw.lognormvariate(0, 2), 1.0)))
        baseline.add(values[-1])
        newest = sorted(values[-31:])
        middle = newest[len(newest) // 2]
        assert baseline.median == middle
        assert baseline.sigma == 1.4826 * sorted(abs(value - middle) for value in newest)[len(newest) // 2]


@pytest.mark.parametrize(
    "options", [{"policy": "hope"}, {"escalation": ["prayer"]}, {"active_after": 300}, {"rate_factor": 1.0}]
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Recovery(**options)
