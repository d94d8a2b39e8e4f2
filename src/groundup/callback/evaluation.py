"""Tasks asked inside the validation of a module, while it trains or when it is done; training goes on as if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from groundup.evaluation.page import shown, speaking
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import Result, Suite
from groundup.model.decoder import Decoder
from groundup.tokenizer.protocol import Tokenizer

MOST_TOLD = 8
"""Tasks whose figures stand in a line."""


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
        self._noted: set[str] = set()

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
            for line in self._lines(module.progress.steps):
                print(line, flush=True)
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
                cast(Any, module).trainer.strategy.share,
            )
            self.results = self._suite.run(scorer, module.setting.precision, self._done, errors)

    def _lines(self, steps: int) -> Iterator[str]:
        """What failed, what is to be noted of a task for the first time, and the figures."""
        for result in self.results:
            if result.get("error"):
                yield f"{result['task']}: failed: {result['error']}"
            elif result["note"] and result["task"] not in self._noted:
                self._noted.add(result["task"])
                yield f"note: {result['task']}: {result['note']}"
        if any(result.get("metrics") for result in self.results):
            yield describe(steps, self.results)


def figures(results: list[Result]) -> dict[str, float]:
    """The results as metrics of a log: `evaluation/<task>/<figure>`, with the number of examples where it is not 0."""
    found: dict[str, float] = {}
    for result in results:
        for metric in result.get("metrics", []):
            kept = "" if metric["filter"] == "none" else f"-{metric['filter']}"
            found[f"evaluation/{_name(result)}/{metric['name']}{kept}"] = metric["value"]
    return found


def describe(steps: int, results: list[Result]) -> str:
    """The figure that speaks for each task, in one line: groups first, and what is too many counted."""
    good = sorted((result for result in results if result.get("metrics")), key=lambda result: not result["group"])
    told = []
    for result in good[:MOST_TOLD]:
        metric = speaking(result)
        told.append(f"{_name(result)} {metric['name']} {shown(metric['value'])}")
    more = f", and {len(good) - MOST_TOLD} more" if len(good) > MOST_TOLD else ""
    return f"step {steps}  {', '.join(told)}{more}"


def _name(result: Result) -> str:
    shots = f"-{result['num_fewshot']}-shot" if result["num_fewshot"] else ""
    return f"{result['task']}{shots}"


def _held_out(trainer: Trainer) -> Mapping[str, Path]:
    data = cast(Any, trainer).datamodule
    return held_out_tasks(storage_of(data.config))
