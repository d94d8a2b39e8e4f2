"""The options of what watches a run; none of them defines its mathematics, so none is part of its identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError, require
from groundup.evaluation.config import Evaluation as Options

if TYPE_CHECKING:
    from lightning import Callback

group(
    "callback",
    "what watches a run: progress, speed, slow ranks, samples, averaged weights, curves, evaluation, checkpoints",
    many=True,
)

_FIRST = ("stragglers", "ema", "throughput", "progress", "samples", "curves")
_LAST = ("checkpoint",)


def build(configs: Mapping[str, Any]) -> list[Callback]:
    """The chosen callbacks in the order in which they must see a step.

    Averages follow the step before anything reads them, and a checkpoint is written last, when all that
    belongs to its step has been logged; callbacks from elsewhere stand between.
    """

    def place(config: Any) -> int:
        kind = str(config.kind)
        return _FIRST.index(kind) if kind in _FIRST else len(_FIRST) + (kind in _LAST)

    return [config.build() for config in sorted(configs.values(), key=place)]


@schema("callback", "progress")
class Progress:
    """A line on the screen now and then: step, tokens, loss, bits per byte, rate, speed, time left."""

    every_steps: int | None = option(None, "a line each time so many steps are done; null: by time only", above=0)
    every_seconds: float | None = option(10.0, "a line after so many seconds; on a terminal it is live", above=0)

    def __post_init__(self) -> None:
        if self.every_steps is None and self.every_seconds is None:
            raise ConfigError("every_steps=null", "says never together with every_seconds=null", "give one of the two")

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.progress import Progress

        return Progress(self)


@schema("callback", "throughput")
class Throughput:
    """Tokens per second and what part of the hardware they used, pauses left out."""

    every: int = option(10, "log the figures each time so many steps are done", above=0)
    window: int = option(50, "steps the figures are averaged over", above=0)
    measure: bool = option(True, "where the device's peak is not known, time its matrix product once at the start")

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.throughput import Throughput

        return Throughput(self)


@schema("callback", "stragglers")
class Stragglers:
    """Which of several ranks computes slower than the others, so that all wait for it."""

    every: int = option(50, "compare the ranks each time so many steps are done", at_least=2)
    factor: float = option(1.2, "tell of a rank whose steps take so many times what the median rank's take", above=1)

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.stragglers import Stragglers

        return Stragglers(self)


@schema("callback", "samples")
class Samples:
    """What the model writes after some prompts, during training and at its end."""

    every: int | None = option(None, "write samples each time so many steps are done; null: at the end only", above=0)
    prompts: list[str] = option(["In the beginning", "And he said to them,", "The"], "what the model is to go on from")
    tokens: int = option(200, "how many tokens it writes after each", above=0)
    temperature: float = option(0.8, "how freely it chooses; 0: always the likeliest token", at_least=0)
    top_k: int | None = option(None, "choose among so many likeliest tokens; null: all", above=0)
    top_p: float | None = option(None, "choose among the likeliest with this summed probability", above=0, at_most=1)
    seed: int = option(0, "of the choices")

    asks_nets = True

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError(
                "prompts=[]", "needs at least one", "give callback.samples.prompts=[...] or leave samples out"
            )

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.samples import Samples

        return Samples(self)


@schema("callback", "ema")
class Ema:
    """An exponential moving average of the weights, used for validation, samples and the final weights."""

    decay: float = option(0.999, "weight of the old average at each step", at_least=0, below=1)
    warmup: bool = option(True, "begin at min(decay, (1 + n) / (10 + n)) after n steps, so as to forget the start")

    reads_parameters = True
    copies = 2
    """How many times it keeps all weights in fp32: the averages, and what stands aside for them."""

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.ema import Ema

        return Ema(self)


@schema("callback", "evaluation")
class Evaluation(Options):
    """Tasks of lm-eval, asked at validations; see `--help evaluation` for what the keys mean."""

    every: int | None = option(None, "at validations each so many steps; null: at every one", above=0)

    asks_nets = True

    def __post_init__(self) -> None:
        Options.__post_init__(self)

    def check(self, validate_every: int | None) -> None:
        """See that there is a validation to stand in, and what it takes.

        Raises:
            ConfigError: it would never be asked, or lm-eval is not installed.
        """
        if validate_every is None:
            raise ConfigError(
                "every", "tasks are asked at validations, and there are none", "set trainer.validate_every"
            )
        if self.every is not None and self.every % validate_every:
            below = self.every // validate_every * validate_every
            fits = f"{below} or {below + validate_every}" if below else f"{validate_every}"
            raise ConfigError(
                f"every={self.every}", f"is no multiple of trainer.validate_every={validate_every}", f"set it to {fits}"
            )
        require("lm_eval", "tasks", "requirements-evaluate.txt")

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.evaluation import Evaluation

        return Evaluation(self)


@schema("callback", "curves")
class Curves:
    """The run's curves as one picture, curves.png."""

    every: int | None = option(None, "draw it each time so many steps are done; null: at the end only", above=0)

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.curves import Curves

        return Curves(self)


@schema("callback", "checkpoint")
class Checkpoint:
    """Whole or absent, hashed, verified: the run so far, from which the same command goes on bitwise."""

    every: int | None = option(250, "save each time so many steps are done; null: at the end only", above=0)
    keep_latest: int = option(2, "how many of the newest stay", at_least=1)
    keep_best: bool = option(True, "the one with the lowest held-out bits per byte stays too")

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.checkpoint import Checkpoint

        return Checkpoint(self)
