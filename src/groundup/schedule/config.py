"""Options of the schedules, and the schedules themselves: pure functions of the clock that import nothing heavy.

`factor(progress, total)` is the share of each parameter group's peak rate that the step *ending* at `progress`
uses. So the first of w warm-up steps has 1/w, the first after them exactly 1, and the last of the run exactly
the final factor. Lengths given as a fraction or in tokens are measured on the token clock, which a growing
batch does not bend; given in steps, the whole schedule is laid out in steps. Places in the run are shares of it
where they are below 1, else readings of that clock.

A longer total (`extend_tokens`) moves the end. Under `wsd` the factor before the old decay began stays exactly
what it was, so a run taken up from there goes on without a jump (one taken up inside or after the decay returns
to 1). `cosine` and `linear` are bent as a whole and jump at the seam. A warm-up given as a fraction grows
with the total, which changes nothing once it is over under both; give tokens or steps to keep it as it was.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

from groundup.core.config import from_dict, group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.schedule.shape import ENDLESS, SHAPES, fall, held
from groundup.schedule.warm import UNITS, WARMUP, Warm, chosen, length, one_clock, place, rising, said, share, stairs

group("schedule", "how the learning rate rises and falls over the run")

DECAY = 0.2


@schema("schedule", "constant")
class Constant(Warm):
    """Warm-up, then the peak rate to the end."""

    def __post_init__(self) -> None:
        chosen(self, "warmup")


@schema("schedule", "linear")
class Linear(Warm):
    """Warm-up, then a straight line down to the final factor at the end of the run."""

    final: float = option(0.0, "share of the peak rate left at the end", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        chosen(self, "warmup")

    def after(self, done: float, warm: float, end: float) -> float:
        """A line from 1 to `final`."""
        return fall("linear", share(done, warm, end), self.final)


@schema("schedule", "cosine")
class Cosine(Warm):
    """Warm-up, then half a cosine down to the final factor at the end of the run (GPT-3: to a tenth)."""

    final: float = option(0.1, "share of the peak rate left at the end", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        chosen(self, "warmup")

    def after(self, done: float, warm: float, end: float) -> float:
        """Half a cosine from 1 to `final`."""
        return fall("cosine", share(done, warm, end), self.final)


@schema("schedule", "wsd")
class WSD(Warm):
    """Warm-up, stable, decay (Hu et al. 2024, MiniCPM): the peak rate until a last stretch brings it down.

    A run can be extended from any checkpoint of its stable part as if the longer run had been meant all along.
    """

    decay_fraction: float | None = option(
        None,
        f"decay, as a share of the run's tokens; {DECAY} where neither tokens nor steps are given",
        above=0,
        at_most=1,
    )
    decay_tokens: int | None = option(None, "decay, in tokens", at_least=1)
    decay_steps: int | None = option(
        None, "decay, in optimizer steps; the schedule is then laid out in steps", at_least=1
    )
    decay: str = option("linear", "curve of the decay", choices=tuple(SHAPES))
    final: float = option(0.0, "share of the peak rate left at the end", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        chosen(self, "warmup")
        chosen(self, "decay")
        one_clock(self, "warmup", "decay")
        if self.decay in ENDLESS and not self.final:
            what = "comes ever nearer to 0 and never there"
            raise ConfigError(f"decay={self.decay}", what, "set final above 0, for instance 0.1")
        if self.clock() == "tokens" and self.warmup_tokens is None and self.decay_tokens is None:
            self.check(Progress(steps=1, samples=1, tokens=1))

    def clock(self) -> str:
        """As the warm-up's; steps also where the decay is given in steps."""
        return "steps" if self.decay_steps is not None else super().clock()

    def after(self, done: float, warm: float, end: float) -> float:
        """1 until the decay begins, then its curve to `final`."""
        start = max(warm, end - length(self, "decay", DECAY, end))
        return 1.0 if done <= start < end else fall(self.decay, share(done, start, end), self.final)

    def check(self, total: Progress) -> None:
        """Check the lengths against the run's.

        Raises:
            ConfigError: warm-up and decay together are longer than the run.
        """
        super().check(total)
        end = getattr(total, self.clock())
        warm, decay = length(self, "warmup", WARMUP, end), length(self, "decay", DECAY, end)
        if warm + decay > end * (1 + 1e-12):
            raise ConfigError(
                said(self, "decay", DECAY),
                f"and {said(self, 'warmup', WARMUP)} are longer together than the run",
                "shorten one of them or lengthen the run",
            )


@schema("schedule", "wsd_s")
class WSDS(WSD):
    """WSD whose decays are on the way (Wen et al. 2024, WSD-S): behind each the peak rate is taken up again at once.

    So one run ends well at several lengths, and what the decays learned is kept. `ends` given as readings of the clock
    stay where they are when the run is extended.
    """

    ends: list[float] = option([0.5], "where decays end, beside the run's end", above=0)
    decay_fraction: float | None = option(
        None,
        f"decay, as a share of the way since the one before; {DECAY} where neither tokens nor steps are given",
        above=0,
        at_most=1,
    )
    decay: str = option("inverse", "curve of the decay", choices=tuple(SHAPES))
    final: float = option(0.1, "share of the peak rate left at the end of each", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        rising("ends", self.ends)
        super().__post_init__()

    def after(self, done: float, warm: float, end: float) -> float:
        """WSD's, of the stretch that `done` is in."""
        first, last = next(((a, b) for a, b in self._stretches(end) if done <= b), (0.0, end))
        return super().after(done - first, max(0.0, warm - first), last - first)

    def check(self, total: Progress) -> None:
        """Check the lengths against the run's.

        Raises:
            ConfigError: there is no room for a decay, or for the warm-up before the first.
        """
        Warm.check(self, total)
        end = getattr(total, self.clock())
        warm = length(self, "warmup", WARMUP, end)
        for first, last in self._stretches(end):
            decay = length(self, "decay", DECAY, last - first)
            if max(first, warm) + decay > last * (1 + 1e-12):
                raise ConfigError(
                    f"ends={list(self.ends)}",
                    f"leave no room from {max(first, warm):g} to {last:g} {self.clock()} for a decay of {decay:g}",
                    "move them, or shorten the decay or the warm-up",
                )

    def _stretches(self, end: float) -> list[tuple[float, float]]:
        """Where each decay and what comes before it begins and ends; a longer run may come to more of them."""
        ends = [where for where in (place(each, end) for each in self.ends) if where < end]
        return list(pairwise([0.0, *ends, float(end)]))


@schema("schedule", "step")
class Step(Warm):
    """Warm-up, then the rate falls at once at some places; the defaults are DeepSeek LLM's (Bi et al. 2024)."""

    drops: list[list[float]] = option(
        [[0.8, 0.316], [0.9, 0.1]], "[place, share]: behind this place in the run, this share of the peak rate"
    )

    def __post_init__(self) -> None:
        chosen(self, "warmup")
        stairs("drops", self.drops)

    def after(self, done: float, warm: float, end: float) -> float:
        """1, and behind each place its share."""
        del warm
        return held([(place(where, end), level) for where, level in self.drops], done)


@schema("schedule", "exponential")
class Exponential(Warm):
    """Warm-up, then a fall by the same factor in equal times, to the final factor at the end of the run."""

    final: float = option(0.1, "share of the peak rate left at the end", above=0, at_most=1)

    def __post_init__(self) -> None:
        chosen(self, "warmup")

    def after(self, done: float, warm: float, end: float) -> float:
        """`final` to the power of what share of the way is done."""
        return fall("exponential", share(done, warm, end), self.final)


@schema("schedule", "inverse_sqrt")
class InverseSqrt(Warm):
    """Warm-up, then the inverse square root of the time (Vaswani et al. 2017).

    With lengths in steps or tokens it needs to know no length of the run. T5's (Raffel et al. 2020) holds the peak for
    10,000 steps in the place of a warm-up: `warmup_steps=0 hold_steps=10000`.
    """

    hold_fraction: float | None = option(
        None, "hold the peak until here, as a share of the run's tokens; null: until the warm-up ends", at_least=0
    )
    hold_tokens: int | None = option(None, "the same, in tokens", at_least=0)
    hold_steps: int | None = option(
        None, "the same, in optimizer steps; the schedule is then laid out in steps", at_least=0
    )

    def __post_init__(self) -> None:
        chosen(self, "warmup")
        chosen(self, "hold")
        one_clock(self, "warmup", "hold")
        if not any(getattr(self, f"hold_{unit}") for unit in UNITS) and 0 in (
            getattr(self, f"warmup_{unit}") for unit in UNITS
        ):
            raise ConfigError(said(self, "warmup", WARMUP), "leaves nothing to fall from", "give hold_steps=N, or more")

    def clock(self) -> str:
        """As the warm-up's; steps also where the peak is held for steps."""
        return "steps" if self.hold_steps is not None else super().clock()

    def after(self, done: float, warm: float, end: float) -> float:
        """1 until the peak has been held, then sqrt(held / done)."""
        until = max(warm, length(self, "hold", 0.0, end))
        return 1.0 if done <= until else math.sqrt(until / done)


@schema("schedule", "opt")
class OPT(Linear):
    """OPT's (Zhang et al. 2022): warm-up, a line down to a tenth, and on the way the rate lowered by hand."""

    final: float = option(0.1, "share of the peak rate left at the end", at_least=0, at_most=1)
    lowered: list[list[float]] = option(
        [], "[place, share]: behind this place in the run, what the line says is multiplied so, until the next"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        stairs("lowered", self.lowered)

    def factor(self, progress: Progress, total: Progress) -> float:
        """The line's, times what it was lowered to."""
        done, end = (getattr(clock, self.clock()) for clock in (progress, total))
        return super().factor(progress, total) * held([(place(w, end), level) for w, level in self.lowered], done)


@schema("schedule", "chain")
class Chain:
    """Schedules one after another, each on its own stretch as if that were the whole run, and `peak` times as high.

    Only the first has a warm-up unless others ask for one. So `{kind: constant, fraction: 0.9}, {kind: linear}` is
    WSD, and several cosines are SGDR's warm restarts (Loshchilov & Hutter 2017).
    """

    parts: list[dict[str, Any]] = option(
        [{"kind": "constant", "fraction": 0.8}, {"kind": "linear"}],
        "kind and options of each schedule; fraction (of the run), tokens or steps: how long it lasts, of all but the "
        "last; peak: times what it says, 1 where it is not given",
    )

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts=[]", "is no schedule", "give at least one: [{kind: linear}]")
        self._links = [self._link(number) for number in range(len(self.parts))]
        if len(self.units) > 1:
            raise ConfigError(
                "parts", "have lengths in steps and in tokens", "give all in one of the two, or as shares"
            )

    def factor(self, progress: Progress, total: Progress) -> float:
        """That of the schedule in whose stretch the step ends."""
        clock = self.clock()
        done, end = getattr(progress, clock), getattr(total, clock)
        links = self._laid_out(end)
        link, first, last = next((each for each in links if done <= each[2]), links[-1])
        return link.peak * float(link.schedule.factor(_reading(done - first), _reading(last - first)))

    def clock(self) -> str:
        """The name of the clock this is laid out on: "steps" where a length is given in steps, else "tokens"."""
        return "steps" if "steps" in self.units else "tokens"

    @property
    def units(self) -> set[str]:
        """The clocks on which lengths are given."""
        return {unit for link in self._links for unit in link.units}

    def check(self, total: Progress) -> None:
        """Check the lengths against the run's.

        Raises:
            ConfigError: the run ends before the last schedule begins, or one does not suit its stretch.
        """
        end = getattr(total, self.clock())
        for number, (link, first, last) in enumerate(self._laid_out(end)):
            if first >= last:
                what = f"has no room: the run ends at {end} {self.clock()}, and those before it at {first}"
                raise ConfigError(f"parts[{number}]", what, "shorten them or lengthen the run")
            try:
                link.schedule.check(_reading(last - first))
            except ConfigError as error:
                raise error.under(f"parts[{number}]") from None

    def _laid_out(self, end: int) -> list[tuple[_Link, int, int]]:
        """Each schedule with where it begins and ends."""
        found, first = [], 0
        for link in self._links[:-1]:
            last = first + (round(link.lasts * end) if link.unit == "fraction" else int(link.lasts))
            found.append((link, first, last))
            first = last
        return [*found, (self._links[-1], first, end)]

    def _link(self, number: int) -> _Link:
        """A schedule of the list, checked."""
        options = dict(self.parts[number])
        where, final = f"parts[{number}]", number == len(self.parts) - 1
        spans = {unit: options.pop(unit) for unit in UNITS if unit in options}
        peak = options.pop("peak", 1.0)
        if len(spans) != (not final):
            what = "is the last, and lasts to the end" if final else "must last for a time"
            remedy = "leave fraction, tokens and steps out" if final else "give one of fraction, tokens and steps"
            raise ConfigError(where, what, remedy)
        for name, value in {**spans, "peak": peak}.items():
            most = math.inf if name in UNITS[1:] else 1
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
                raise ConfigError(
                    f"{where}.{name}={value}", "must be a number above 0, a share at most 1", "correct it"
                )
        if number and not any(f"warmup_{unit}" in options for unit in UNITS) and options.get("kind") != "chain":
            options["warmup_fraction"] = 0.0
        try:
            schedule = from_dict("schedule", options)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.where}", error.what, error.remedy) from None
        unit, lasts = next(iter(spans.items()), ("fraction", 1.0))
        units = {name.rpartition("_")[2] for name in (*spans, *options)} & set(UNITS[1:])
        return _Link(schedule, unit, lasts, peak, units | getattr(schedule, "units", set()))


@dataclasses.dataclass(frozen=True)
class _Link:
    """A schedule of a chain, how long it lasts in which unit, its factor, and the clocks its lengths are given on."""

    schedule: Any
    unit: str
    lasts: float
    peak: float
    units: set[str]


def _reading(clock: int) -> Progress:
    """A clock of which only what a chain is laid out on is known."""
    return Progress(steps=clock, samples=clock, tokens=clock)
