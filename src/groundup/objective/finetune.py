"""Fine-tuning: a network and a small head answer a question about each example; where examples come from is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from groundup.data.labelled import Labelled
from groundup.data.step import Step
from groundup.model import task_head
from groundup.model.parts import put
from groundup.model.task_head import TaskHead
from groundup.objective import losses, measures
from groundup.objective.answering import answered, best_spans
from groundup.objective.base import Objective, Setting, Stepping
from groundup.objective.finetune_config import Finetune as Config

LOGGED = "examples/"
"""Measures on held-out examples are logged under this and their name."""


class Finetune(Objective):
    """Cross-entropy of classes, squared error of scores, or cross-entropies of a span's start and end.

    Nets are the network, `model`, and the head, `task`. The network's own head is not used and not trained.
    """

    config: Config

    def __init__(self, config: Config, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> None:
        super().__init__(config, {"model": model, "task": config.head(model)}, optimizer, schedule, setting)
        self._found: list[Tensor] = []
        self._examples = 0

    @property
    def head(self) -> TaskHead:
        """The head."""
        return cast(TaskHead, self.nets["task"])

    def configure_model(self) -> None:
        """Build the nets, and leave the head for tokens as it is."""
        super().configure_model()
        cast(Any, self.nets["model"]).head.requires_grad_(False)

    def fill(self, name: str, folder: Path) -> None:
        """The finished weights of a run folder, also of the head."""
        if name != "task":
            super().fill(name, folder)
            return
        saved = task_head.load(folder).state_dict()
        for key, target in self.head.state_dict().items():
            put(target, saved[key])

    def forward(self, batch: Any) -> Tensor:
        """What the head answers, (B, outputs), of a span (B, T, 2)."""
        return answered(self.nets["model"], self.head, batch)

    def loss(self, output: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over examples; of classes also how many are told right."""
        kept_B = batch.examples_B >= 0
        if self.config.task == "classification":
            right_B = (output.argmax(dim=-1) == batch.answers_B) & kept_B
            return losses.classes(output, batch.answers_B, kept_B), {"accuracy": right_B.sum().to(output.dtype)}
        if self.config.task == "regression":
            wanted_B = (batch.answers_B - self.config.mean) / self.config.deviation
            return losses.scores(output[:, 0], wanted_B.to(output.dtype), kept_B), {}
        return losses.spans(output, batch.answers_B, batch.documents_BT == 0, kept_B), {}

    # Held-out examples

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self._found, self._examples = [], 0

    def validation_step(self, step: Step, index: int, dataloader_idx: int = 0) -> None:
        """Note what is answered to each example of this rank."""
        del index, dataloader_idx
        self._examples = max(self._examples, step.first_sample + step.samples)
        for batch in cast(list[Labelled], step.micro_batches):
            with self.autocast():
                output = self(batch)
            total, _ = self.loss(output, batch)
            kept_B = batch.examples_B >= 0
            rows = self._rows(output, batch, kept_B).double()
            share = total.double() / kept_B.sum().clamp(min=1)
            numbers = batch.examples_B[kept_B].double()
            self._found.append(torch.cat((numbers[:, None], share.expand(len(rows), 1), rows), dim=1))

    def on_validation_epoch_end(self) -> None:
        """Bring the answers of all ranks together, and measure them."""
        found = torch.cat(self._found)
        every = found.new_zeros(self._examples, found.shape[1] - 1)
        every[found[:, 0].long()] = found[:, 1:]
        rows = cast(Stepping, self.trainer.strategy).sum_over_ranks(every).cpu().numpy()
        self.validation = {"loss": float(rows[:, 0].mean()), **self._measured(rows[:, 1:]), "count": float(len(rows))}
        if self.trainer.state.fn == "fit" or self.progress.steps == 0:
            self.write({f"{LOGGED}{name}": value for name, value in self.validation.items()})

    def _rows(self, output: Tensor, batch: Labelled, kept_B: Tensor) -> Tensor:
        """What is measured of each example, (examples, columns)."""
        if self.config.task == "classification":
            return torch.stack((output.argmax(dim=-1), batch.answers_B), dim=1)[kept_B]
        if self.config.task == "regression":
            told_B = output[:, 0] * self.config.deviation + self.config.mean
            return torch.stack((told_B, batch.answers_B.to(output.dtype)), dim=1)[kept_B]
        spans_B2 = best_spans(output, batch.text_B2, self.config.answer_tokens)
        assert self.tokenizer is not None and batch.right_BA is not None
        rows = []
        for row in torch.nonzero(kept_B)[:, 0].tolist():
            first, last = spans_B2[row].tolist()
            told = self.tokenizer.decode(batch.tokens_BT[row, first : last + 1].tolist()) if first else ""
            right = bytes(batch.right_BA[row].tolist()).decode().rstrip("\0").split("\0")
            both = measures.exact_match, measures.token_f1
            rows.append([measure(text, right) for text in (told, "") for measure in both])
        return torch.tensor(rows, dtype=torch.double, device=output.device).view(-1, 4)

    def _measured(self, rows: np.ndarray[Any, Any]) -> dict[str, float]:
        if self.config.task == "classification":
            predicted, true = rows.astype(np.int64).T
            return measures.of_classes(predicted, true, len(self.config.classes))
        if self.config.task == "regression":
            return measures.of_scores(rows[:, 0], rows[:, 1], self.config.mean)
        names = ("exact_match", "f1", "no_answer_exact_match", "no_answer_f1")
        return dict(zip(names, rows.mean(axis=0).tolist(), strict=True))

    # Parts

    def _flops(self, model: Any) -> float:
        """No position predicts a token; an encoder-decoder reads each twice."""
        if not hasattr(model, "mask"):
            return float(model.flops_per_token())
        return float(model.flops_per_token(1.0, 1.0 if model.kind == "encoder_decoder" else 0.0))
