"""What is to be done about a run's instability, decided from numbers alone; it knows no tensor, trainer or file.

A policy observes one row of signals per step, before the step is taken, and gives a verdict. It is a pure function of
what it observed, of the planned changes, and of what was tried before, so a recorded run can be put to any of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from groundup.callback.baseline import Baseline
from groundup.callback.config import Recovery as Options

GO, SKIP, ROLL_BACK, STOP = "go", "skip", "roll_back", "stop"
NEVER = math.nan
TREND = 16
"""Steps over which the loss is averaged to take off its trend: what is usual is how it scatters around that."""

BESIDE_LOSS, ALONE = 0.75, 2.0
"""A step is skipped where its norm stands out by this multiple of `sigmas`, with the loss or alone. Half and one were
too little: of 100,000 clean steps of a small decoder two had as much, and went on well."""

LEAST_LOSS, LEAST_NORM = 0.005, 0.3
"""A deviation is at least this share of the loss, and this of a norm's logarithm: smaller ones are no harm."""


@dataclass(frozen=True)
class Signals:
    """What is seen of a step before its update.

    Attributes:
        step: steps done once this one is; the first of a run is 1.
        loss: mean over the step's targets, in nats.
        norm: of the whole gradient, before clipping.
    """

    step: int
    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@dataclass(frozen=True)
class Verdict:
    """What to do, and on what grounds.

    Attributes:
        action: GO; SKIP: drop this step's gradient; ROLL_BACK; or STOP and tell a person.
        why: in words.
        before: ROLL_BACK: to a checkpoint of at most so many steps.
        first: ROLL_BACK: the step of the first sign; a checkpoint of as many steps or more may be spoilt.
        skip_until: ROLL_BACK: samples of the steps behind `before` up to this one are not served again; None: all are.
        rate: ROLL_BACK: multiplies the rate from there on.
        embedding: ROLL_BACK: multiplies the embeddings' gradient from there on.
        evidence: the figures it rests on.
    """

    action: str = GO
    why: str = ""
    before: int = 0
    first: int = 0
    skip_until: int | None = None
    rate: float = 1.0
    embedding: float = 1.0
    evidence: dict[str, float] = field(default_factory=dict)


State = dict[str, list[float]]


class Policy(Protocol):
    """The face of all policies."""

    def observe(self, signals: Signals) -> Verdict:
        """What to do about the step at hand; steps come in their order, each once."""

    def safe(self, step: int) -> int | None:
        """The clock reading, in steps, as far back as it may need to go for trouble at `step`; None: nowhere."""

    def state(self) -> State:
        """All it remembers, as lists of the same lengths at any time."""

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""


class Escalate:
    """Skip; go back and skip what was around; lower the rate too; shrink the embeddings' gradient too; stop.

    A step is skipped where it is not finite, where the loss stands `sigmas` deviations above its median and the
    gradient's norm three quarters as far, or the norm alone twice as far. So that it may heal as most spikes do, no
    more than `skips` in a row are, but for those that are not finite. Where the loss stays there for `patience`
    steps, the run goes back to `margin` steps before the first sign and passes over `skip_steps` steps' samples
    (Chowdhery et al. 2022, PaLM, section 5.1). If that has been done near there before, it goes back twice as far
    as then, and the next measure of `escalation` is taken with it: the rate is lowered (Zhang et al. 2022, OPT,
    section 2.5), the embeddings' gradient shrunk (Zeng et al. 2022, GLM-130B, section 3.1). A smoothed loss that
    stays above its best for long is no batch's doing: there nothing is skipped, and the first measure is taken at
    once.

    Losses are compared by how far they lie above their own trend, norms by their logarithms. What is not usual does
    not shift what is; a planned change begins it anew.

    Args:
        options: the thresholds.
        changes: clock readings, in steps, at which planned changes begin.
        tried: the steps at which earlier roll-backs of this run were decided.
    """

    def __init__(self, options: Options, changes: Collection[int] = (), tried: Sequence[int] = ()) -> None:
        self.options, self.changes, self.tried = options, frozenset(changes), list(tried)
        self.losses, self.norms = Baseline(options.window), Baseline(options.window)
        self.relax()

    def relax(self) -> None:
        """A planned change begins: what was usual need not be any more."""
        self.losses.clear()
        self.norms.clear()
        self.seen = self.high = self.skipped = self.broken = self.wild = self.calm = 0
        self.since = NEVER
        self.trend, self.smooth, self.best, self.best_step, self.above = math.nan, math.nan, math.inf, NEVER, 0

    def observe(self, signals: Signals) -> Verdict:
        """As `Policy.observe`."""
        if signals.step - 1 in self.changes:
            self.relax()
        if not signals.finite:
            return self._not_finite(signals)
        self.broken = 0
        evidence = self._scores(signals)
        high = evidence.get("loss_sigmas", 0.0) > self.options.sigmas
        norm = evidence.get("norm_sigmas", 0.0) / self.options.sigmas
        self._note_signs(signals.step, max(evidence.get("loss_sigmas", 0.0), evidence.get("norm_sigmas", 0.0)))
        self.high = self.high + 1 if high else max(0, self.high - 1)
        self.wild = self.wild + 1 if norm > 1 else 0
        self._learn(signals, high)
        if high and self.high >= self.options.patience:
            return self._back(signals.step, int(self.since), "the loss spiked and did not come down", evidence)
        if self.above >= self.options.slow_patience:
            evidence |= {"smoothed_loss": self.smooth, "best_smoothed_loss": self.best}
            return self._back(signals.step, int(self.best_step), "the loss has grown slowly", evidence, slow=True)
        if norm > ALONE or (high and norm > BESIDE_LOSS):
            self.skipped += 1
            if self.skipped <= self.options.skips:
                which = "loss" if high else "gradient norm"
                return Verdict(SKIP, f"the {which} stands far above what is usual", evidence=evidence)
        else:
            self.skipped = 0
        return Verdict(evidence=evidence)

    def safe(self, step: int) -> int | None:
        """As `Policy.safe`."""
        first = step if math.isnan(self.since) else int(self.since)
        if self.above:
            first = min(first, int(self.best_step))
        return self._before(first, len(self._near(step)) + 1)

    def _near(self, step: int) -> list[int]:
        """Where it went back before, near a step."""
        return [earlier for earlier in self.tried if abs(earlier - step) <= self.options.near]

    def _before(self, first: int, times: int) -> int:
        """The clock reading to go back to: twice as far before the first sign for each time that this did not help."""
        return max(0, first - 1 - (self.options.margin << times))

    def _not_finite(self, signals: Signals) -> Verdict:
        self.broken += 1
        self._note_signs(signals.step, math.inf)
        evidence = {"loss": signals.loss, "norm": signals.norm}
        if self.broken >= self.options.broken:
            why = f"{self.broken} steps in a row were not finite"
            return self._back(signals.step, int(self.since), why, evidence)
        return Verdict(SKIP, "loss or gradient is not finite", evidence=evidence)

    def _scores(self, signals: Signals) -> dict[str, float]:
        """How far loss and norm stand above what is usual; without judgement while too little was seen."""
        evidence = {"loss": signals.loss, "norm": signals.norm}
        if self.seen < self.options.active_after:
            return evidence
        loss, norm = self.trend + self.losses.median, self.norms.median
        evidence |= {"usual_loss": loss, "usual_norm": math.exp(norm)}
        evidence["loss_sigmas"] = (signals.loss - loss) / max(self.losses.sigma, LEAST_LOSS * abs(self.trend), 1e-9)
        evidence["norm_sigmas"] = (_logarithm(signals.norm) - norm) / max(self.norms.sigma, LEAST_NORM)
        return evidence

    def _note_signs(self, step: int, sigmas: float) -> None:
        """Remember the first of the signs that are not yet `patience` quiet steps ago."""
        if sigmas > self.options.sigmas / 2:
            self.calm = 0
            if math.isnan(self.since):
                self.since = float(step)
        elif not math.isnan(self.since):
            self.calm += 1
            if self.calm > self.options.patience and not self.high:
                self.since, self.calm = NEVER, 0

    def _learn(self, signals: Signals, high: bool) -> None:
        """Take in what is usual, and the smoothed loss."""
        self.seen += 1
        if not high:
            self.trend = signals.loss if self.seen == 1 else self.trend
            self.losses.add(signals.loss - self.trend)
            self.trend += max(1.0 / TREND, 1.0 / self.seen) * (signals.loss - self.trend)
        if not 0 < self.wild <= self.options.patience:  # a norm that stays is usual, if the loss bears it
            self.norms.add(_logarithm(signals.norm))
        memory = self.options.slow_memory
        weight = max(1.0 / memory, 1.0 / self.seen)
        self.smooth = signals.loss if self.seen == 1 else self.smooth + weight * (signals.loss - self.smooth)
        if self.seen < max(memory, self.options.active_after):
            return
        if self.smooth < self.best:
            self.best, self.best_step = self.smooth, float(signals.step)
        rise, least = self.smooth - self.best, self.options.slow_rise * abs(self.best)
        # a loss smoothed with weight 1 / n deviates by 1 / sqrt(2 n - 1) of what single ones do
        grown = rise > least and rise > self.options.sigmas * self.losses.sigma / math.sqrt(2 * memory - 1)
        self.above = self.above + 1 if grown else 0

    def _back(self, step: int, since: int, why: str, evidence: dict[str, float], slow: bool = False) -> Verdict:
        """Go back, with as much beside it as was not enough before; or stop."""
        options = self.options
        near = self._near(step)
        level = len(near) + slow
        evidence = {**evidence, "first_sign": float(since), "earlier_near": float(len(near))}
        if level > len(options.escalation) or len(self.tried) >= options.most:
            done = ["skipping samples", *(_WORDS[name] for name in options.escalation[: max(0, level - 1)])]
            many = f"after {len(self.tried)} roll-backs, {len(near)} of them near here"
            return Verdict(STOP, f"{why}, {many} ({', '.join(done)})", evidence=evidence)
        before = self._before(since, len(near))
        measure = options.escalation[level - 1] if level else None
        until = None if slow else max(before + options.skip_steps, step)
        return Verdict(
            ROLL_BACK,
            why,
            before=before,
            first=since,
            skip_until=until,
            rate=options.rate_factor if measure == "rate" else 1.0,
            embedding=options.embedding_factor if measure == "embedding" else 1.0,
            evidence=evidence,
        )

    def state(self) -> State:
        """As `Policy.state`."""
        numbers = [getattr(self, name) for name in _NUMBERS]
        return {
            "losses": self.losses.state(),
            "norms": self.norms.state(),
            "numbers": [float(number) for number in numbers],
        }

    def load_state(self, state: State) -> None:
        """As `Policy.load_state`; of another window the newest values are taken."""
        self.losses.load(state["losses"])
        self.norms.load(state["norms"])
        for name, value in zip(_NUMBERS, state["numbers"], strict=True):
            setattr(self, name, int(value) if name in _COUNTS else value)


_COUNTS = ("seen", "high", "skipped", "broken", "wild", "calm", "above")
_NUMBERS = (*_COUNTS, "since", "trend", "smooth", "best", "best_step")
_WORDS = {"rate": "a lower rate", "embedding": "a smaller gradient of the embeddings"}


def _logarithm(norm: float) -> float:
    return math.log(max(norm, 1e-30))
