"""Tasks asked inside the validation of a module, while it trains or when it is done; training goes on as if not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback import config
from groundup.callback.ema import averaged
from groundup.callback.samples import undisturbed
from groundup.callback.throughput import paused
from groundup.callback.watched import Watched, log, watched
from groundup.core.errors import ConfigError
from groundup.data.opening import held_out_tasks, storage_of
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import Result, Suite
from groundup.model.decoder import Decoder
from groundup.tokenizer.protocol import Tokenizer


class Evaluation(Callback):
    """Runs the tasks at the end of a validation, on averaged weights where the run keeps some, and logs their figures.

    It stands inside `Trainer.validate` and every validation of `Trainer.fit`, so that nets which are spread over
    devices are where their forward pass can be asked for.

    Attributes:
        results: of the last time, see `Suite.run`.
    """

    def __init__(
        self,
        options: config.Evaluation,
        done: Callable[[Result], None] | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        self.options = options
        self.results: list[Result] = []
        self._done, self._tell = done, tell
        self._suite: Suite | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the tasks before anything is computed."""
        self.prepare(watched(pl_module), lambda: _held_out(trainer))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, if it is time to."""
        module = watched(pl_module)
        training = trainer.state.fn == "fit"
        if training and self.options.every and module.progress.steps % self.options.every:
            return
        with paused(trainer), averaged(trainer):
            self.ask(module, errors=not training)
        if training and trainer.is_global_zero:
            for result in self.results:
                if result.get("error"):
                    print(f"{result['task']}: failed: {result['error']}", flush=True)
        log(trainer, figures(self.results), module.progress.steps)

    def prepare(self, module: Watched, held_out: Callable[[], Mapping[str, Path]]) -> None:
        """Find the tasks; a second time changes nothing.

        Args:
            module: whose net is asked.
            held_out: gives the files of the tasks that prepare.py made.

        Raises:
            ConfigError: a task that is not known, or a model that cannot be asked.
            DataError: prepare.py made no tasks, and they are asked for.
        """
        if self._suite is not None:
            return
        if module.tokenizer is None:
            raise ConfigError("evaluation", "needs a tokenizer, and this data is no text", "leave it out")
        self._suite = Suite(self.options, module.tokenizer, held_out)

    def ask(self, module: Watched, errors: bool = True) -> None:
        """Run the tasks on the module's net and keep what they give.

        Args:
            module: the net in its nets.
            errors: also estimate standard errors.

        Raises:
            ConfigError: the net gives no likelihoods.
        """
        net = module.nets["model"]
        if self._suite is None or not hasattr(net, "likelihoods"):
            raise ConfigError("evaluation", "asks a network for likelihoods, and this one gives none", "leave it out")
        options = self.options
        with undisturbed(module):
            scorer = Scorer(
                cast(Decoder, net),
                cast(Tokenizer, module.tokenizer),
                options.batch_tokens,
                options.batch,
                options.context,
                cast(Any, module).autocast,
                self._tell,
            )
            self.results = self._suite.run(scorer, module.setting.precision, self._done, errors)


def figures(results: list[Result]) -> dict[str, float]:
    """The results as metrics of a log: `evaluation/<task>/<figure>`, with the number of examples where it is not 0."""
    found: dict[str, float] = {}
    for result in results:
        shots = f"-{result['num_fewshot']}-shot" if result["num_fewshot"] else ""
        for metric in result.get("metrics", []):
            kept = "" if metric["filter"] == "none" else f"-{metric['filter']}"
            found[f"evaluation/{result['task']}{shots}/{metric['name']}{kept}"] = metric["value"]
    return found


def _held_out(trainer: Trainer) -> Mapping[str, Path]:
    data = cast(Any, trainer).datamodule
    return held_out_tasks(storage_of(data.config))
