"""Rules that other trainers publish, behind the face of `policy`, and the choice among all; plain arithmetic.

Both are as published but for one thing: what is not finite is skipped and forgotten, where it would else spoil every
mean until it has left the window.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence

from groundup.callback.baseline import filled, there
from groundup.callback.config import Recovery as Options
from groundup.callback.policy import SKIP, STOP, Escalate, Policy, Signals, State, Verdict


class OlmoCore:
    """Skip a step whose loss or norm stands more than 6 deviations above the mean of the 128 before it.

    OLMo-core's `SkipStepOptimizer`, with its defaults; it acts once it has seen 64.
    """

    def __init__(self, length: int = 128, factor: float = 6.0) -> None:
        self.length, self.factor = length, factor
        self.losses: deque[float] = deque(maxlen=length)
        self.norms: deque[float] = deque(maxlen=length)

    def observe(self, signals: Signals) -> Verdict:
        """As `Policy.observe`."""
        evidence = {"loss": signals.loss, "norm": signals.norm}
        if not signals.finite:
            return Verdict(SKIP, "loss or gradient is not finite", evidence=evidence)
        verdict = Verdict(evidence=evidence)
        if len(self.losses) + 1 >= max(20, self.length // 2):
            for name, values, value in (("loss", self.losses, signals.loss), ("norm", self.norms, signals.norm)):
                mean, deviation = _moments(values)
                evidence |= {f"{name}_mean": mean, f"{name}_deviation": deviation}
                if value - mean > self.factor * deviation:
                    verdict = Verdict(SKIP, f"the {name} stands far above its mean", evidence=evidence)
        self.losses.append(signals.loss)
        self.norms.append(signals.norm)
        return verdict

    def safe(self, step: int) -> int | None:
        """It never goes back."""
        del step
        return None

    def state(self) -> State:
        """As `Policy.state`."""
        return {"losses": filled(self.losses, self.length), "norms": filled(self.norms, self.length)}

    def load_state(self, state: State) -> None:
        """As `Policy.load_state`."""
        self.losses = deque(there(state["losses"]), self.length)
        self.norms = deque(there(state["norms"]), self.length)


class LlmFoundry:
    """Stop once the loss is twice the mean of the last 100 for more than 4 steps in a row.

    llm-foundry's `KillLossSpike`, with its defaults, but for its cap on any loss above 10.
    """

    def __init__(self, length: int = 100, factor: float = 2.0, patience: int = 4) -> None:
        self.length, self.factor, self.patience = length, factor, patience
        self.losses: deque[float] = deque(maxlen=length)
        self.outliers = 0

    def observe(self, signals: Signals) -> Verdict:
        """As `Policy.observe`."""
        evidence = {"loss": signals.loss}
        if not signals.finite:
            return Verdict(SKIP, "loss or gradient is not finite", evidence=evidence)
        if len(self.losses) == self.length:
            mean = math.fsum(self.losses) / self.length
            evidence["loss_mean"] = mean
            self.outliers = self.outliers + 1 if signals.loss >= self.factor * mean else 0
        self.losses.append(signals.loss)
        if self.outliers > self.patience:
            why = f"the loss was {self.factor:g} times its mean for {self.outliers} steps"
            return Verdict(STOP, why, evidence=evidence)
        return Verdict(evidence=evidence)

    def safe(self, step: int) -> int | None:
        """It never goes back."""
        del step
        return None

    def state(self) -> State:
        """As `Policy.state`."""
        return {"losses": filled(self.losses, self.length), "numbers": [float(self.outliers)]}

    def load_state(self, state: State) -> None:
        """As `Policy.load_state`."""
        self.losses = deque(there(state["losses"]), self.length)
        self.outliers = int(state["numbers"][0])


def policy_of(options: Options, changes: Collection[int] = (), tried: Sequence[int] = ()) -> Policy:
    """The policy that the options name.

    Args:
        options: of the callback `recovery`.
        changes: clock readings, in steps, at which planned changes begin.
        tried: the steps at which earlier roll-backs of the run were decided.
    """
    if options.policy == "olmo_core":
        return OlmoCore()
    if options.policy == "llm_foundry":
        return LlmFoundry()
    return Escalate(options, changes, tried)


def _moments(values: Collection[float]) -> tuple[float, float]:
    """Mean and standard deviation, the latter from n - 1."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
