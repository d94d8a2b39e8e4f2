"""Options of fine-tuning on labelled examples; no torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.config import option, schema
from groundup.core.errors import ConfigError
from groundup.model.task import TASKS, Task
from groundup.objective.requirements import two_stacks

if TYPE_CHECKING:
    from groundup.objective.base import Objective, Setting


EMBEDDING_GRADIENT = (
    "multiplies the gradient of embeddings, with that of a head that is tied to them (Zeng et al. 2022, GLM-130B: 0.1)"
)


@schema("objective", "finetune")
class Finetune:
    """Answer a question about labelled examples, by a small head (Radford et al. 2018; Devlin et al. 2019)."""

    task: str = option("classification", "what an example is asked: its class, a score, or a span", choices=TASKS)
    clip: float | None = option(1.0, "largest norm of the whole gradient; larger ones are scaled down to it", above=0)
    embedding_gradient: float = option(1.0, EMBEDDING_GRADIENT, above=0)
    dropout: float = option(0.1, "share of what the head reads that is dropped", at_least=0, below=1)
    answer_tokens: int = option(30, "span: tokens of the longest answer that is given", at_least=1)
    classes: list[str] = option([], "names of the classes; filled in from the data")
    mean: float = option(0.0, "of the scores; filled in from the data")
    deviation: float = option(1.0, "of the scores, their standard deviation; filled in from the data", above=0)
    context: int | None = option(None, "tokens of a row; filled in from the data", identity=False)

    @property
    def unit(self) -> str:
        """What is sought on held-out examples."""
        return "loss on examples"

    def check(self, model: Any) -> None:
        """As for `Pretrain`."""
        if getattr(model, "kind", None) not in ("encoder", "decoder", "encoder_decoder"):
            what = "is a network whose stream no head can read"
            raise ConfigError(f"model={model.kind}", what, "set model=encoder, decoder or encoder_decoder")

    def widths(self, model: Any, context: int) -> tuple[int, int]:
        """As for `Pretrain`: the decoder of an encoder-decoder reads what its encoder reads."""
        return context if two_stacks(model) else 0, context

    def head(self, model: Any) -> Task:
        """The config of the head on a network of this config."""
        return Task(
            task=self.task,
            width=model.embedded,
            classes=list(self.classes),
            mean=self.mean,
            deviation=self.deviation,
            first=model.kind == "encoder",
            dropout=self.dropout,
            context=self.context,
            answer_tokens=self.answer_tokens,
        )

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Objective:
        """The LightningModule that trains `model` (a config of the model group) and the head of the task."""
        from groundup.objective import finetune

        return finetune.Finetune(self, model, optimizer, schedule, setting)
