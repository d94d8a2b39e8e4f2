"""The clock of a run: steps, samples and tokens done, and nothing of how they were done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Progress:
    """What has been consumed since the run began, over all ranks.

    Attributes:
        steps: optimizer steps.
        samples: samples of the stream, each once; the index of the next sample.
        tokens: tokens of context the samples held.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.samples, self.tokens) < 0:
            raise ValueError(f"progress cannot be negative: {self}")

    def after(self, *, steps: int = 1, samples: int, tokens: int) -> Progress:
        """The clock once `steps` more steps with so many samples and tokens in all are done."""
        return Progress(self.steps + steps, self.samples + samples, self.tokens + tokens)
