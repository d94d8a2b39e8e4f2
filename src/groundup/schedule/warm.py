"""What schedules are made of beside their curves: a warm-up, and lengths given as a share, in tokens or in steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from groundup.core.config import option
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.schedule.shape import rise

UNITS = ("fraction", "tokens", "steps")
WARMUP = 0.02


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


def one_clock(config: object, *parts: str) -> None:
    """Check that no part's length is given in tokens and another's in steps.

    Raises:
        ConfigError: naming one of each.
    """
    in_tokens, in_steps = (
        [f"{part}_{unit}" for part in parts if getattr(config, f"{part}_{unit}") is not None] for unit in UNITS[1:]
    )
    if in_tokens and in_steps:
        raise ConfigError(
            f"{in_steps[0]}={getattr(config, in_steps[0])}",
            f"is on another clock than {in_tokens[0]}",
            "give both in steps or both in tokens",
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


def place(where: float, end: float) -> float:
    """A place in the run as options name it: below 1 a share of it, else a reading of the clock."""
    return where * end if where < 1 else where


def rising(name: str, places: Sequence[float]) -> None:
    """Check places in the run.

    Raises:
        ConfigError: one does not come behind the one before, or is a share where others are readings.
    """
    for before, here in pairwise(places):
        if here <= before or (here < 1) != (before < 1):
            what = f"{here:g} does not come behind {before:g}"
            raise ConfigError(name, what, "sort them; give all below 1, as shares of the run, or none")


def stairs(name: str, steps: Sequence[Sequence[float]]) -> None:
    """Check [place, level] pairs.

    Raises:
        ConfigError: what is none, a level outside [0, 1], or as `rising`.
    """
    for number, pair in enumerate(steps):
        if len(pair) != 2 or pair[0] <= 0 or not 0 <= pair[1] <= 1:
            what = f"{list(pair)} is no place in the run with a share of the rate from 0 to 1"
            raise ConfigError(f"{name}[{number}]", what, f"write {name}=[[0.8, 0.3], [0.9, 0.1]]")
    rising(name, [where for where, _ in steps])
