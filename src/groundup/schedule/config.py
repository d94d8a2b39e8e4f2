"""Options of the schedules, and the schedules themselves: pure functions of the clock that import nothing heavy.

`factor(progress, total)` is the share of each parameter group's peak rate that the step *ending* at `progress`
uses. So the first of w warm-up steps has 1/w, the first after them exactly 1, and the last of the run exactly
the final factor. Lengths given as a fraction or in tokens are measured on the token clock, which a growing
batch does not bend; given in steps, the whole schedule is laid out in steps.

A longer total (`extend_tokens`) moves the end. Under `wsd` the factor before the old decay began stays exactly
what it was, so a run taken up from there goes on without a jump (one taken up inside or after the decay returns
to 1). `cosine` and `linear` are bent as a whole and jump at the seam. A warm-up given as a fraction grows
with the total, which changes nothing once it is over under both; give tokens or steps to keep it as it was.
"""

from __future__ import annotations

import dataclasses

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.schedule.shape import SHAPES, fall, rise

group("schedule", "how the learning rate rises and falls over the run")

UNITS = ("fraction", "tokens", "steps")
WARMUP = 0.02
DECAY = 0.2


@dataclasses.dataclass(kw_only=True)
class Warm:
    """What every schedule begins with: a linear warm-up of a length given in one of three ways."""

    warmup_fraction: float | None = option(
        None,
        f"warm-up, as a share of the run's tokens; {WARMUP} where neither tokens nor steps are given",
        at_least=0,
        at_most=1,
    )
    warmup_tokens: int | None = option(None, "warm-up, in tokens", at_least=0)
    warmup_steps: int | None = option(
        None, "warm-up, in optimizer steps; the schedule is then laid out in steps", at_least=0
    )

    def factor(self, progress: Progress, total: Progress) -> float:
        """The share of the peak rate, in [0, 1], for the step that ends at `progress` of a run that ends at `total`."""
        clock = self.clock()
        done, end = getattr(progress, clock), getattr(total, clock)
        warm = length(self, "warmup", WARMUP, end)
        return rise(done, warm) if done < warm else self.after(done, warm, end)

    def after(self, done: float, warm: float, end: float) -> float:
        """The factor once the warm-up is over: exactly 1 at `warm`."""
        del done, warm, end
        return 1.0

    def clock(self) -> str:
        """The name of the clock this is laid out on: "steps" where a length is given in steps, else "tokens"."""
        return "steps" if self.warmup_steps is not None else "tokens"

    def check(self, total: Progress) -> None:
        """Check the lengths against the run's.

        Raises:
            ConfigError: the warm-up does not end within the run; `where` starts at the field's name.
        """
        end = getattr(total, self.clock())
        warm = length(self, "warmup", WARMUP, end)
        if warm > end or (warm == end and self.after(end, warm, end) < 1.0):
            raise ConfigError(
                said(self, "warmup", WARMUP),
                f"takes all of the run's {end} {self.clock()}, or more",
                "shorten the warm-up or lengthen the run",
            )


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
        for one, other in (("warmup_tokens", "decay_steps"), ("warmup_steps", "decay_tokens")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(
                    f"{other}={getattr(self, other)}",
                    f"is on another clock than {one}",
                    "give both in steps or both in tokens",
                )
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


def chosen(config: object, part: str) -> None:
    """Check that the length of a part ("warmup", "decay") is given in one way only.

    Raises:
        ConfigError: it is given in several.
    """
    given = [f"{part}_{unit}" for unit in UNITS if getattr(config, f"{part}_{unit}") is not None]
    if len(given) > 1:
        values = " and ".join(f"{name}={getattr(config, name)}" for name in given)
        raise ConfigError(
            values, "give one length twice", f"keep one of them and set {given[0]}=null or {given[1]}=null"
        )


def length(config: object, part: str, default: float, end: float) -> float:
    """How long a part is, in the units of the clock whose run ends at `end`."""
    for unit in ("tokens", "steps"):
        value = getattr(config, f"{part}_{unit}")
        if value is not None:
            return float(value)
    fraction = getattr(config, f"{part}_fraction")
    return float(default if fraction is None else fraction) * end


def said(config: object, part: str, default: float) -> str:
    """A part's length as the user gave it, or would have."""
    for unit in UNITS:
        value = getattr(config, f"{part}_{unit}")
        if value is not None:
            return f"{part}_{unit}={value}"
    return f"{part}_fraction={default}"


def share(done: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` is done, exactly all of it at the end."""
    return 1.0 if done >= end else (done - start) / (end - start)
