"""Options of a search over other options: its space, how trials are drawn, when one is given up; no Optuna here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groundup.core.config import MISSING, group, option, schema
from groundup.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lightning import Callback
    from optuna.pruners import BasePruner

TRIALS = 20
group("sweep", "a search over other options: python train.py --multirun sweep=...")
group("parameter", "one option that a search varies")
group("pruner", "when a search gives up a trial before its end")


@schema("parameter", "varied")
class Parameter:
    """An option that a search varies: between two numbers, or among choices."""

    key: str | None = option(None, "the option or group it sets; null: the parameter's own name")
    low: float | None = option(None, "least value")
    high: float | None = option(None, "greatest value")
    log: bool = option(False, "draw evenly on a logarithmic scale")
    step: float | None = option(None, "only low, low + step, ... up to high", above=0)
    integer: bool = option(False, "whole numbers only")
    choices: list[Any] = option([], "the values to choose among, in place of low and high")
    when: dict[str, Any] = option({}, "only where these parameters, stated before, have this value (or one of a list)")

    def __post_init__(self) -> None:
        if self.choices:
            self._check_choices()
        elif self.low is None or self.high is None:
            raise ConfigError("choices=[]", "and no bounds say nothing", "give low and high, or choices")
        else:
            self._check_range(self.low, self.high)

    def _check_choices(self) -> None:
        for name in ("low", "high", "step"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name}={getattr(self, name)}", "stands beside choices", "give one of the two")
        if self.log or self.integer:
            raise ConfigError("choices", "are neither log nor integer", "leave log and integer out")
        if any(value in self.choices[:place] for place, value in enumerate(self.choices)):
            raise ConfigError(f"choices={self.choices}", "hold a value twice", "leave one out")

    def _check_range(self, low: float, high: float) -> None:
        if not low < high:
            raise ConfigError(f"low={low:g}", f"is not below high={high:g}", "give bounds in order")
        if max(abs(low), abs(high)) == float("inf"):
            raise ConfigError(f"low={low:g}, high={high:g}", "are not finite", "give finite bounds")
        if self.log and low <= 0:
            raise ConfigError(f"low={low:g}", "has no logarithm", "set it above 0 or leave log out")
        if self.log and self.step is not None:
            raise ConfigError(f"step={self.step:g}", "stands beside log=true", "leave one of the two out")
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if self.integer and value is not None and value != int(value):
                raise ConfigError(f"{name}={value:g}", "is not whole", "give a whole number or leave integer out")

    def values(self) -> list[Any]:
        """Every value, for a grid.

        Raises:
            ConfigError: there is no end of them.
        """
        if self.choices:
            return list(self.choices)
        if self.low is None or self.high is None or self.log or (self.step is None and not self.integer):
            raise ConfigError("step=null", "leaves a grid without end", "give step (not log), or choices")
        step = self.step or 1.0
        count = int((self.high - self.low) / step + 1e-9) + 1
        found = [self.low + place * step for place in range(count)]
        return [int(value) for value in found] if self.integer else [float(f"{value:.12g}") for value in found]

    def ends(self) -> list[Any]:
        """The values that show whether an option takes what lies between them: both bounds, or every choice."""
        if self.choices:
            return list(self.choices)
        return [int(end) if self.integer else end for end in (self.low, self.high) if end is not None]


@schema("pruner", "median")
class Median:
    """A trial that is worse than half of the others after as many tokens is given up."""

    every_tokens: int = option(MISSING, "look at held-out text each time so many tokens are done", at_least=1)
    after_trials: int = option(5, "not before so many trials have ended", at_least=1)
    after_tokens: int = option(0, "not before a trial has done so many tokens", at_least=0)

    def build(self, tokens: int) -> BasePruner:
        """Optuna's pruner, for runs of so many tokens."""
        from optuna.pruners import MedianPruner

        del tokens
        return MedianPruner(n_startup_trials=self.after_trials, n_warmup_steps=self.after_tokens)


@schema("pruner", "hyperband")
class Hyperband:
    """At growing numbers of tokens only the best of those in a bracket go on (Li et al. 2018)."""

    every_tokens: int = option(MISSING, "tokens of the first look; later ones at this times powers of reduction")
    reduction: int = option(3, "one of so many goes on", at_least=2)

    def __post_init__(self) -> None:
        if self.every_tokens < 1:
            raise ConfigError(f"every_tokens={self.every_tokens}", "must be at least 1", "set it at least 1")

    def build(self, tokens: int) -> BasePruner:
        """Optuna's pruner, for runs of so many tokens."""
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(min_resource=self.every_tokens, max_resource=tokens, reduction_factor=self.reduction)


@schema("callback", "prune")
class Prune:
    """What a search adds to its trials when it has a pruner; not for a command line."""

    study: str | None = option(None, "the study's folder")
    trial: int | None = option(None, "the trial's number", at_least=0)
    pruner: Any = option(None, "when to give up")

    def build(self) -> Callback:
        """The callback.

        Raises:
            ConfigError: it was not a search that chose it.
        """
        if self.study is None or self.trial is None or self.pruner is None:
            raise ConfigError("callback.prune", "belongs to the trials of a sweep", "choose sweep.pruner instead")
        from groundup.sweep.prune import Prune

        return Prune(self.study, self.trial, self.pruner)


@schema("sweep", "search")
class Search:
    """Runs with options drawn from a space, towards the lowest held-out bits per byte."""

    study: str = option("search", "the study's name; its folder is <runs>/<study>")
    sampler: str = option("tpe", "how trials are drawn", choices=("tpe", "random", "grid"))
    seed: int = option(0, "of what is drawn: the same seed draws the same trials, one process at a time", at_least=0)
    trials: int | None = option(
        None, f"trials in all, complete, pruned or failed; null: {TRIALS}, or every point of a grid", at_least=1
    )
    random_trials: int = option(10, "tpe: so many are drawn at random before it learns from them", at_least=0)
    pruner: Any = option(None, "when to give up a trial: {kind: median | hyperband, every_tokens: N}; null: never")
    space: dict[str, Parameter] = option({}, "what is varied, by a name of its own: {name: {key: ..., low: ...}}")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.study) or self.study.strip(".") == "":
            raise ConfigError(f"study={self.study}", "cannot name a folder", "use letters, digits, . _ and -")
        for place, (name, parameter) in enumerate(self.space.items()):
            before = dict(list(self.space.items())[:place])
            for other, wanted in parameter.when.items():
                _check_condition(f"space.{name}.when", other, wanted, before)
            for other, earlier in before.items():
                if (earlier.key or other) == (parameter.key or name) and not exclusive(earlier, parameter):
                    what = f"sets {parameter.key or name}, as {other} does"
                    raise ConfigError(f"space.{name}", what, "give them `when` with different values")


def _check_condition(where: str, other: str, wanted: Any, before: Mapping[str, Parameter]) -> None:
    if other not in before:
        raise ConfigError(f"{where}.{other}", "is no parameter stated before", nearest(other, before))
    for value in alternatives(wanted):
        if before[other].choices and value not in before[other].choices:
            known = ", ".join(map(str, before[other].choices))
            raise ConfigError(f"{where}.{other}={value}", f"is not among its choices: {known}", "give one of them")


def alternatives(wanted: Any) -> list[Any]:
    """The values a condition allows."""
    return list(wanted) if isinstance(wanted, list) else [wanted]


def exclusive(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters can never be drawn in the same trial."""
    return any(
        not any(value in alternatives(other.when[name]) for value in alternatives(wanted))
        for name, wanted in one.when.items()
        if name in other.when
    )
