"""The segments of a run: a pure function of its plan and of what was decided on the way; no file is read here.

What holds at a clock reading is the plan, over it what a person wrote into the run folder's changes.yaml, and over both
the measures of roll-backs, which are factors and ranges and so hold whatever the others say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groundup.callback.decisions import CHANGE, Decision
from groundup.core.progress import Progress
from groundup.shard.eras import Mix
from groundup.trainer.changes import Turn, apply, turned
from groundup.trainer.segments import Break, Segment, lay_out


@dataclass(frozen=True)
class Course:
    """What a run's segments follow from, beside its decisions.

    Attributes:
        config: the run's first.
        planned: changes, in the order of their tokens.
        tokens: the run's length.
    """

    config: Any
    planned: Sequence[Turn]
    tokens: int

    def segments(self, made: Sequence[Decision] = ()) -> list[Segment]:
        """The segments once these decisions have been taken, one after the other; what was before each stays.

        Raises:
            ConfigError: a change that cannot be.
        """
        found = self._laid_out([], [], [])
        written: list[Decision] = []
        measures: list[Decision] = []
        for decision in made:
            clock = decision.clock or Progress()
            if decision.action == CHANGE:  # what was written before, for later, is taken back
                written = [*(before for before in written if _tokens(before) < clock.tokens), decision]
            elif decision.goes_back:
                measures.append(decision)
            else:
                continue
            found = self._laid_out(list(_up_to(found, clock)), written, measures)
        return found

    def _laid_out(
        self, done: list[Segment], written: Sequence[Decision], measures: Sequence[Decision]
    ) -> list[Segment]:
        breaks = [Break(turn.tokens, turn.why) for turn in self.planned]
        for decision in written:
            breaks.append(Break(_tokens(decision), decision.why))
            breaks += [Break(turn.tokens, turn.why) for turn in turns(decision) if turn.tokens > _tokens(decision)]
        for decision in measures:
            why = f"back from step {decision.step}: {decision.why}"
            breaks.append(Break(_tokens(decision), why, planned=False))

        def keys(tokens: int) -> dict[str, Any]:
            now = [decision for decision in written if _tokens(decision) <= tokens]
            found: dict[str, Any] = {}
            for turn in [*self.planned, *(turns(now[-1]) if now else [])]:
                found = turned(found, turn) if turn.tokens <= tokens else found
            for decision in measures:
                if _tokens(decision) <= tokens:
                    found = {**found, **_measured(apply(self.config, found), decision)}
            return found

        return lay_out(self.config, breaks, keys, self.tokens, done)


def mixes(config: Any, segments: Sequence[Segment]) -> list[Mix]:
    """The mixes of sources that held in segments one after another, the first from the run's start."""
    found: list[Mix] = []
    for segment in segments:
        data = apply(config, segment.set).data
        if not found or data.weights != found[-1].weights:
            found.append(Mix(segment.first.samples, data.weights, data.ease_tokens // data.context))
    return found


def turns(decision: Decision) -> list[Turn]:
    """What a change written in the run folder comes to: at once where it says no tokens."""
    return [
        Turn(
            entry.get("tokens") or _tokens(decision),
            entry.get("set") or {},
            tuple(entry.get("undo") or ()),
            f"changes.yaml at {entry.get('tokens') or _tokens(decision)} tokens",
        )
        for entry in decision.changes or []
    ]


def _tokens(decision: Decision) -> int:
    return (decision.clock or Progress()).tokens


def _up_to(segments: Sequence[Segment], clock: Progress) -> Iterator[Segment]:
    """The segments before a clock reading, the one that it falls into cut there."""
    for segment in segments:
        if segment.last.steps <= clock.steps:
            yield segment
        elif segment.first.steps < clock.steps:
            yield replace(segment, last=clock)


def _measured(effective: Any, decision: Decision) -> dict[str, Any]:
    """The keys of a roll-back's measures."""
    keys: dict[str, Any] = {}
    if decision.skip is not None:
        keys["data.skips"] = [*map(list, effective.data.skips), list(decision.skip)]
    if decision.rate != 1:
        for name in getattr(effective.optimizer, "rates", ("rate",)):
            keys[f"optimizer.{name}"] = getattr(effective.optimizer, name) * decision.rate
    if decision.embedding != 1:
        keys["objective.embedding_gradient"] = effective.objective.embedding_gradient * decision.embedding
    return keys
