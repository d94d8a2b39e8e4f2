"""What is asked of a text, and the size of the head that answers; importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.model.task_head import TaskHead

TASKS = ("classification", "regression", "span")


@dataclass(kw_only=True)
class Task:
    """A question that every text is asked.

    Attributes:
        task: one of `TASKS`.
        width: channels of the stream that is read.
        classes: names of the classes, of a classification.
        mean: of the scores, about which a regression answers.
        deviation: standard deviation of the scores, in units of which it answers.
        first: the first position is read, as of a network that sees the whole text (BERT), else the last one. Of a
            span every position is read.
        dropout: share of what is read that is dropped in training.
        context: tokens of a row in training; None: not known.
        answer_tokens: of a span, tokens of the longest answer that was measured.
    """

    task: str
    width: int
    classes: list[str] = field(default_factory=list)
    mean: float = 0.0
    deviation: float = 1.0
    first: bool = True
    dropout: float = 0.0
    context: int | None = None
    answer_tokens: int = 30

    @property
    def outputs(self) -> int:
        """Numbers that the head gives: one of each class, one score, or those of a start and an end."""
        return {"classification": len(self.classes), "regression": 1, "span": 2}[self.task]

    @property
    def pooled(self) -> bool:
        """Whether BERT's pooler, a linear map and a tanh, comes first (Devlin et al. 2019)."""
        return self.first and self.task != "span"

    def flops_per_token(self) -> float:
        """Model FLOPs of the head for a token, forward and backward: of one vector a text there are next to none."""
        return 6.0 * self.width * self.outputs if self.task == "span" else 0.0

    def build(self) -> TaskHead:
        """The head with weights drawn from torch's generator; under `torch.device("meta")` without memory."""
        from groundup.model.task_head import TaskHead

        return TaskHead(self)
