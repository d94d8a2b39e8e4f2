"""Asks a policy about every step before its update, and keeps the run from what it advises against.

Which checkpoint is gone back to, and what the run's segments are then, is not decided here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from groundup.callback import config, decisions
from groundup.callback.culprit import culprit
from groundup.callback.decisions import Decision
from groundup.callback.history import History
from groundup.callback.policy import GO, SKIP, Policy, Signals, Verdict
from groundup.callback.published import policy_of
from groundup.callback.watched import Watched, watched
from groundup.data.step import Step
from groundup.shard.skip import Skips

_SHOWN = 32
"""So many steps before a decision stand in its evidence."""


class Recovery(Callback):
    """Puts loss and gradient norm of each step to a policy; one transfer from the device per step.

    Every rank asks its own, which sees the same and so answers the same. A step that is advised against is not taken;
    if the policy would go back or stop, training ends here and `verdict` says so.
    """

    def __init__(self, options: config.Recovery) -> None:
        self.options = options
        self.policy: Policy = policy_of(options)
        self.verdict: Verdict | None = None
        self.evidence: dict[str, Any] = {}
        self.step = 0
        self._changes: Sequence[int] = ()
        self._skips = Skips()
        self._attempt = 1
        self._recent: deque[Signals] = deque(maxlen=_SHOWN)
        self._signals: History | None = None

    def place(self, changes: Sequence[int], skips: Sequence[Sequence[int]]) -> None:
        """Say where in the run this stands.

        Args:
            changes: clock readings, in steps, at which planned changes begin.
            skips: ranges of the order that are not served.
        """
        self._changes, self._skips = changes, Skips(skips)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch, knowing what was tried before; the checkpoint says afterwards what had been seen."""
        module = watched(pl_module)
        before = decisions.read(module.folder)
        tried = [decision.step for decision in before if decision.goes_back]
        self._attempt = len(tried) + 1
        self.policy = policy_of(self.options, self._changes, tried)
        if trainer.is_global_zero:
            self._signals = History(module.folder / config.SIGNALS)
            self._signals.rewind(module.progress.steps)

        def gate(step: Step, means: Mapping[str, Tensor], norm: Tensor) -> bool:
            return self.admits(trainer, module, step, means, norm)

        module.gates.append(gate)

    def admits(self, trainer: Trainer, module: Watched, step: Step, means: Mapping[str, Tensor], norm: Tensor) -> bool:
        """Whether a step may be taken; its gradient is still there."""
        loss = means["loss"].detach().to(norm.device, torch.float32)
        signals = Signals(step.step + 1, *torch.stack((loss, norm.detach().float())).tolist())
        verdict = self.note(signals)
        if self._signals is not None:
            self._signals.append(signals.step, {"loss": signals.loss, "gradient_norm": signals.norm})
        if verdict.action == GO:
            return True
        self.step, self.evidence = signals.step, self._explained(trainer, module, step, signals, verdict)
        if verdict.action == SKIP:
            if trainer.is_global_zero:
                made = Decision(self._attempt, signals.step, verdict.action, verdict.why, self.evidence)
                decisions.record(module.folder, made)
            return False
        self.verdict = verdict
        module.abandoned = True
        trainer.should_stop = True
        trainer.limit_val_batches = 0  # else Lightning would validate before it stops
        return False

    def note(self, signals: Signals) -> Verdict:
        """What the policy says of a step."""
        self._recent.append(signals)
        return self.policy.observe(signals)

    def holds(self, steps: Sequence[int]) -> set[int]:
        """The newest checkpoint that would be gone back to if a spike showed now, and all that will be in its turn."""
        safe = self.policy.safe(self._recent[-1].step) if self._recent else None
        if safe is None:
            return set()
        newest = max((step for step in steps if step <= safe), default=0)
        return {step for step in steps if step >= newest}

    def state(self) -> dict[str, Tensor]:
        """What the policy remembers."""
        found = self.policy.state()
        prefix = self.options.policy
        return {f"{prefix}/{name}": torch.tensor(values, dtype=torch.float64) for name, values in found.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave; what another policy remembered is of no use to this one."""
        prefix = f"{self.options.policy}/"
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if mine:
            self.policy.load_state({name: value.tolist() for name, value in mine.items()})

    def _explained(
        self, trainer: Trainer, module: Watched, step: Step, signals: Signals, verdict: Verdict
    ) -> dict[str, Any]:
        """The policy's figures, the steps before, where in the data this step stands, and what is not finite."""
        first, last = self._skips.index(np.array([step.first_sample, step.first_sample + step.samples - 1])).tolist()
        found: dict[str, Any] = {
            **verdict.evidence,
            "samples": [step.first_sample, step.first_sample + step.samples],
            "indices": [first, last + 1],
            "losses": [row.loss for row in self._recent],
            "norms": [row.norm for row in self._recent],
        }
        return found if signals.finite else {**found, "not_finite": culprit(trainer, module, step)}
