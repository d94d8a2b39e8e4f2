"""Options of the components; what they build is imported when it is built."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from groundup.core.config import option, schema
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress

if TYPE_CHECKING:
    from groundup.objective.base import Objective, Setting
    from my_parts.model import Ngram as Net


@schema("model", "ngram")
class Ngram:
    """A feed-forward net over the last few tokens (Bengio et al. 2003, A Neural Probabilistic Language Model)."""

    order: int = option(8, "tokens that are looked at", at_least=1)
    width: int = option(128, "numbers per token", at_least=1)
    hidden: int = option(512, "numbers in the hidden layer", at_least=1)
    context: int | None = option(None, "most positions in a window; null: the data's", at_least=1)
    vocabulary: int | None = option(None, "token ids; null: the tokenizer's", at_least=1)

    def closed(self) -> tuple[int, int]:
        """Vocabulary and context, which train.py fills in from the data.

        Raises:
            ConfigError: one of them is still open.
        """
        if self.vocabulary is None or self.context is None:
            raise ConfigError("model", "vocabulary or context is null", "give vocabulary=N and context=N")
        return self.vocabulary, self.context

    def parameters(self) -> dict[str, int]:
        """How many numbers are learned, by what they are used for."""
        vocabulary, _ = self.closed()
        embedding = vocabulary * self.width
        matrix = self.order * self.width * self.hidden + self.hidden * vocabulary
        return {"embedding": embedding, "matrix": matrix, "vector": 0, "total": embedding + matrix}

    def flops_per_token(self) -> int:
        """Model FLOPs of one training token: 6 for every number in a matrix."""
        return 6 * self.parameters()["matrix"]

    def build(self) -> Net:
        """The network with weights drawn from torch's generator."""
        from my_parts import model

        self.closed()
        return model.Ngram(self)


@schema("objective", "focal")
class Focal:
    """Next-token prediction that cares less about what is easy (Lin et al. 2017, Focal Loss)."""

    clip: float | None = option(1.0, "largest norm of the whole gradient; larger ones are scaled down to it", above=0)
    gamma: float = option(1.0, "how much less; an easy token counts (1 - p) to this power", at_least=1)

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Objective:
        """The LightningModule that trains `model` on this objective."""
        from my_parts import objective

        return objective.Focal(self, {"model": model}, optimizer, schedule, setting)


@schema("schedule", "inverse_root")
class InverseRoot:
    """Linear warm-up, then a rate that falls with the root of the steps (Vaswani et al. 2017, section 5.3)."""

    warmup: int = option(100, "steps until the peak rate is reached", at_least=1)

    def factor(self, progress: Progress, total: Progress) -> float:
        """The share of the peak rate, in [0, 1], for the step that ends at `progress`."""
        del total  # this schedule does not care how long the run is
        return min(progress.steps / self.warmup, math.sqrt(self.warmup / max(1, progress.steps)))

    def check(self, total: Progress) -> None:
        """Every run is long enough for it."""
