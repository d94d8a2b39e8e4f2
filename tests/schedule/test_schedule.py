"""Laws of the schedules: bounded, continuous, peak exactly 1, end exactly at the final factor."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.config import from_dict, to_dict
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.schedule.config import OPT, WSD, WSDS, Chain, Constant, Cosine, Exponential, InverseSqrt, Linear, Step

BATCH = 64
TOTAL = Progress(steps=1000, samples=4000, tokens=64_000)

warmups = st.one_of(
    st.floats(0, 0.5).map(lambda value: {"warmup_fraction": value}),
    st.integers(0, 500).map(lambda value: {"warmup_steps": value}),
    st.integers(0, 32_000).map(lambda value: {"warmup_tokens": value}),
    st.just({}),
)
decays = st.one_of(st.floats(0.01, 0.5).map(lambda value: {"decay_fraction": value}), st.just({}))
finals = st.floats(0, 1)


@st.composite
def schedules(draw):
    kind = draw(st.sampled_from([Constant, Linear, Cosine, WSD, Exponential, OPT]))
    options = draw(warmups)
    if kind is not Constant:
        options = {**options, "final": draw(finals if kind is not Exponential else st.floats(0.001, 1))}
    if kind is WSD:
        options = {**options, **draw(decays), "decay": draw(st.sampled_from(["linear", "sqrt", "cosine"]))}
    return kind(**options)


def at(tokens: float, total: Progress = TOTAL) -> Progress:
    share = tokens / total.tokens
    return Progress(steps=round(share * total.steps), samples=round(share * total.samples), tokens=round(tokens))


def at_step(step: int) -> Progress:
    return Progress(steps=step, samples=4 * step, tokens=BATCH * step)


@given(schedules(), st.integers(0, 80_000))
def test_a_factor_never_leaves_zero_to_one(schedule, tokens):
    assert 0.0 <= schedule.factor(at(tokens), TOTAL) <= 1.0


@given(schedules())
def test_the_warm_up_ends_at_exactly_one(schedule):
    schedule.check(TOTAL)
    assert schedule.after(320.5, 320.5, 64_000) == 1.0
    if schedule.warmup_steps is not None:
        assert schedule.factor(at_step(schedule.warmup_steps), TOTAL) == 1.0
    if schedule.warmup_tokens is not None:
        assert schedule.factor(at(schedule.warmup_tokens), TOTAL) == 1.0


@given(schedules())
def test_the_end_is_exactly_the_final_factor_and_stays_there(schedule):
    final = getattr(schedule, "final", 1.0)
    assert schedule.factor(TOTAL, TOTAL) == final
    assert schedule.factor(Progress(steps=1500, samples=6000, tokens=96_000), TOTAL) == final


@given(schedules())
def test_neighbouring_clock_readings_have_neighbouring_factors(schedule):
    total = Progress(steps=10**6, samples=10**6, tokens=10**6)
    names = ("warmup_steps", "warmup_tokens")
    warm = next((getattr(schedule, n) for n in names if getattr(schedule, n) is not None), None)
    warm = (
        warm if warm is not None else (0.02 if schedule.warmup_fraction is None else schedule.warmup_fraction) * 10**6
    )
    fall = getattr(schedule, "decay_fraction", None)
    fall = (0.2 if fall is None else fall) * 10**6 if isinstance(schedule, WSD) else 10**6 - warm
    for centre in (warm, 10**6 - fall, 10**6, 500_000):
        low, high = max(0, math.floor(centre) - 1), math.ceil(centre) + 1
        for a in range(low, high):
            one = schedule.factor(Progress(steps=a, samples=a, tokens=a), total)
            two = schedule.factor(Progress(steps=a + 1, samples=a + 1, tokens=a + 1), total)
            # the steepest parts: a line over the warm-up, and 1 - sqrt over the decay
            slack = (1 / warm if warm >= 1 else 1.0) + (math.sqrt(2 / fall) if fall >= 1 else 1.0)
            slack += 20 / fall if isinstance(schedule, Exponential) else 0  # log(1000) to begin with
            assert abs(one - two) <= min(1.0, 2 * slack + 1e-9)


@given(schedules(), st.integers(500, 1100))
def test_after_the_warm_up_a_factor_never_rises(schedule, step):
    assert schedule.factor(at_step(step + 1), TOTAL) <= schedule.factor(at_step(step), TOTAL)


def test_the_first_of_ten_warm_up_steps_has_a_tenth_and_the_tenth_has_all():
    schedule = Cosine(warmup_steps=10)
    assert schedule.factor(at_step(1), TOTAL) == pytest.approx(0.1)
    assert schedule.factor(at_step(10), TOTAL) == 1.0
    assert schedule.factor(at_step(11), TOTAL) < 1.0


def test_cosine_halfway_is_the_mean_of_peak_and_final():
    schedule = Cosine(warmup_fraction=0.0, final=0.1)
    assert schedule.factor(at(32_000), TOTAL) == pytest.approx(0.55)
    assert schedule.factor(at(16_000), TOTAL) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize(("decay", "half"), [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)])
def test_wsd_is_flat_and_then_follows_its_curve(decay, half):
    schedule = WSD(warmup_tokens=6_400, decay_tokens=12_800, decay=decay)
    assert {schedule.factor(at(tokens), TOTAL) for tokens in range(6_400, 51_201, 640)} == {1.0}
    assert schedule.factor(at(57_600), TOTAL) == pytest.approx(half)
    assert schedule.factor(at(64_000), TOTAL) == 0.0


@given(st.integers(64_000, 10**6), st.sampled_from(["decay_tokens", "decay_fraction"]), st.integers(6_400, 51_200))
def test_extending_wsd_leaves_the_stable_part_as_it_was(longer, unit, tokens):
    schedule = WSD(warmup_tokens=6_400, **{unit: 12_800 if unit == "decay_tokens" else 0.2})
    extended = Progress(steps=longer // BATCH, samples=longer // 16, tokens=longer)
    assert schedule.factor(at(tokens), extended) == schedule.factor(at(tokens), TOTAL) == 1.0


def test_a_growing_batch_does_not_bend_a_schedule_laid_out_in_tokens():
    schedule = Linear(warmup_fraction=0.1)
    few = Progress(steps=10, samples=2000, tokens=32_000)
    many = Progress(steps=900, samples=2000, tokens=32_000)
    assert schedule.factor(few, TOTAL) == schedule.factor(many, TOTAL)


def test_without_a_length_the_warm_up_is_a_fiftieth_and_zero_turns_it_off():
    assert Constant().factor(at(640), TOTAL) == pytest.approx(0.5)
    assert Constant().factor(at(1_280), TOTAL) == 1.0
    assert Constant(warmup_steps=0).factor(Progress(), TOTAL) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_fraction": 0.1, "warmup_steps": 5},
        {"warmup_tokens": 100, "warmup_steps": 5},
        {"warmup_tokens": 100, "warmup_fraction": 0.0},
    ],
)
@pytest.mark.parametrize("kind", [Constant, Linear, Cosine, WSD])
def test_a_length_given_twice_is_refused(kind, options):
    with pytest.raises(ConfigError, match=r"warmup_\w+=.* and warmup_\w+=.*give one length twice; keep one"):
        kind(**options)


def test_wsd_refuses_two_clocks_and_two_decays():
    with pytest.raises(ConfigError, match="another clock"):
        WSD(warmup_steps=10, decay_tokens=100)
    with pytest.raises(ConfigError, match="another clock"):
        WSD(warmup_tokens=10, decay_steps=100)
    with pytest.raises(ConfigError, match=r"decay_fraction=0\.1 and decay_steps=100"):
        WSD(decay_fraction=0.1, decay_steps=100)
    with pytest.raises(ConfigError, match="longer together"):
        WSD(warmup_fraction=0.5, decay_fraction=0.6)
    with pytest.raises(ConfigError, match="decay=wavy: allowed: linear"):
        WSD(decay="wavy")


@pytest.mark.parametrize("options", [{"warmup_steps": 1001}, {"warmup_tokens": 64_001}])
@pytest.mark.parametrize("kind", [Constant, Linear, Cosine, WSD])
def test_a_warm_up_longer_than_the_run_is_refused(kind, options):
    schedule = kind(**options)
    with pytest.raises(ConfigError, match=r"^warmup_\w+=\d+: takes all of the run's \d+ \w+, or more; shorten"):
        schedule.check(TOTAL)


def test_a_warm_up_that_leaves_no_room_to_fall_is_refused_and_one_that_needs_none_is_not():
    with pytest.raises(ConfigError, match="warmup_steps=1000: takes all"):
        Cosine(warmup_steps=1000).check(TOTAL)
    Constant(warmup_steps=1000).check(TOTAL)


def test_warm_up_and_decay_longer_than_the_run_are_refused_once_it_is_known():
    schedule = WSD(warmup_steps=600, decay_steps=500)
    with pytest.raises(ConfigError, match="decay_steps=500: and warmup_steps=600 are longer together"):
        schedule.check(TOTAL)
    schedule.check(Progress(steps=1100, samples=4400, tokens=70_400))


def test_a_mixed_schedule_in_steps_takes_its_fraction_of_the_steps():
    schedule = WSD(warmup_fraction=0.1, decay_steps=100)
    assert schedule.factor(Progress(steps=50, samples=1, tokens=1), TOTAL) == pytest.approx(0.5)
    assert schedule.factor(Progress(steps=950, samples=1, tokens=1), TOTAL) == pytest.approx(0.5)


@given(st.one_of(schedules(), st.sampled_from([WSDS(), Step(), InverseSqrt(hold_tokens=9), Chain()])))
def test_a_schedule_survives_being_written_down(schedule):
    assert from_dict("schedule", to_dict(schedule)) == schedule


def levels(schedule, *tokens):
    return [schedule.factor(at(each), TOTAL) for each in tokens]


def test_wsd_s_is_wsd_up_to_each_end_and_goes_on_at_the_peak():
    schedule = WSDS(ends=[16_000], warmup_tokens=1_000, decay_tokens=3_200)
    short = WSD(warmup_tokens=1_000, decay_tokens=3_200, decay="inverse", final=0.1)
    first = at(16_000)
    for tokens in range(1_000, 16_001, 500):
        assert schedule.factor(at(tokens), TOTAL) == short.factor(at(tokens), first)
    assert levels(schedule, 16_000, 16_064, 60_800, 64_000) == [0.1, 1.0, 1.0, 0.1]
    assert levels(schedule, 14_400) == [pytest.approx(1 / (1 + 0.5 * 9))]  # its inverse is half way from 1 to 10
    longer = Progress(steps=2000, samples=8000, tokens=128_000)
    assert [schedule.factor(at(t), longer) for t in (16_000, 16_064, 64_000)] == [0.1, 1.0, 1.0]
    assert WSDS(ends=[0.25, 0.5], warmup_tokens=0, decay_fraction=0.5).factor(at(24_000), TOTAL) == 1.0
    WSDS(ends=[200_000], warmup_tokens=0).check(TOTAL)  # for a longer run
    with pytest.raises(ConfigError, match="leave no room from 1000 to 2000 tokens for a decay of 3200"):
        WSDS(ends=[2_000], warmup_tokens=1_000, decay_tokens=3_200).check(TOTAL)
    with pytest.raises(ConfigError, match=r"ends: 8000 does not come behind 0\.5"):
        WSDS(ends=[0.5, 8_000])


def test_a_step_falls_behind_its_places_and_opt_is_a_line_lowered_by_hand():
    assert levels(Step(), 51_200, 51_264, 57_600, 57_664, 64_000) == [1.0, 0.316, 0.316, 0.1, 0.1]
    assert levels(Step(drops=[[32_000, 0.5]]), 32_000, 32_064) == [1.0, 0.5]
    line, opt = Linear(final=0.1), OPT(lowered=[[0.25, 0.5], [0.5, 1.0]])
    for tokens in range(64, 64_001, 64):
        lowered = 0.5 if 16_000 < tokens <= 32_000 else 1.0
        assert opt.factor(at(tokens), TOTAL) == line.factor(at(tokens), TOTAL) * lowered
    for drops, what in (
        ([[0.5]], r"\[0.5\] is no place"),
        ([[0.5, 2]], "is no place"),
        ([[5, 0.1], [3, 0.1]], "behind"),
    ):
        with pytest.raises(ConfigError, match=what):
            Step(drops=drops)


def test_an_exponential_falls_by_the_same_factor_in_equal_times():
    first, second, third = levels(Exponential(warmup_tokens=0, final=0.01), 16_000, 32_000, 48_000)
    assert second / first == pytest.approx(third / second) == pytest.approx(0.01**0.25)


def test_an_inverse_square_root_halves_when_the_time_is_four_times_as_long_whatever_the_run_s_length():
    noam, t5 = InverseSqrt(warmup_tokens=4_000), InverseSqrt(warmup_steps=0, hold_steps=100)
    assert levels(noam, 2_000, 4_000, 16_000, 64_000) == [0.5, 1.0, 0.5, 0.25]
    assert [t5.factor(at_step(step), TOTAL) for step in (1, 100, 400)] == [1.0, 1.0, 0.5]
    assert noam.factor(at(16_000), at(640_000)) == 0.5
    with pytest.raises(ConfigError, match="warmup_steps=0: leaves nothing to fall from"):
        InverseSqrt(warmup_steps=0)


def test_a_chain_is_each_of_its_schedules_on_its_own_stretch():
    parts = [{"kind": "cosine", "tokens": 16_000, "warmup_tokens": 800}, {"kind": "linear", "peak": 0.1}]
    chain, cosine, line = Chain(parts=parts), Cosine(warmup_tokens=800), Linear(warmup_fraction=0.0)
    for tokens in range(64, 16_001, 64):
        assert chain.factor(at(tokens), TOTAL) == cosine.factor(at(tokens), at(16_000))
    for tokens in range(16_064, 64_001, 64):
        assert chain.factor(at(tokens), TOTAL) == 0.1 * line.factor(at(tokens - 16_000), at(48_000))
    assert levels(chain, 16_000, 64_000) == [0.1, 0.0]
    wsd = WSD(warmup_fraction=0.0, decay_fraction=0.2)
    again = Chain(parts=[{"kind": "constant", "fraction": 0.8, "warmup_fraction": 0.0}, {"kind": "linear"}])
    nested = Chain(parts=[{"kind": "chain", "parts": again.parts, "fraction": 0.5}, {"kind": "constant"}])
    for tokens in range(64, 64_001, 64):
        assert again.factor(at(tokens), TOTAL) == pytest.approx(wsd.factor(at(tokens), TOTAL))
        assert nested.factor(at(tokens), TOTAL) == (again.factor(at(tokens), at(32_000)) if tokens <= 32_000 else 1.0)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([], r"parts=\[\]: is no schedule"),
        ([{"kind": "linear"}, {"kind": "linear"}], r"parts\[0\]: must last for a time"),
        ([{"kind": "linear", "steps": 5}], r"parts\[0\]: is the last, and lasts to the end"),
        ([{"kind": "linear", "steps": 5}, {"kind": "wsd", "decay_tokens": 5}], "lengths in steps and in tokens"),
        ([{"kind": "linear", "fraction": 1.5}, {"kind": "wsd"}], r"parts\[0\]\.fraction=1.5: must be a number above 0"),
        ([{"kind": "linar"}], r"parts\[0\]: schedule\.kind=linar: is not registered; did you mean linear"),
        (
            [{"kind": "linear", "finl": 0}],
            r"parts\[0\]: schedule\.finl: is not an option of linear; did you",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused(parts, what):
    with pytest.raises(ConfigError, match=what):
        Chain(parts=parts)


def test_a_chain_longer_than_the_run_or_with_a_schedule_that_does_not_suit_its_stretch_is_refused():
    with pytest.raises(
        ConfigError, match=r"parts\[1\]: has no room: the run ends at 64000 tokens, and those before it at"
    ):
        Chain(parts=[{"kind": "constant", "tokens": 64_000}, {"kind": "linear"}]).check(TOTAL)
    with pytest.raises(ConfigError, match=r"parts\[0\]\.warmup_tokens=800: takes all of the run's 700 tokens"):
        Chain(parts=[{"kind": "cosine", "tokens": 700, "warmup_tokens": 800}, {"kind": "linear"}]).check(TOTAL)


def test_schedules_need_neither_torch_nor_numpy():
    code = "import sys, groundup.schedule.config; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
