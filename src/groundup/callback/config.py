"""The options of what watches a run; none of them defines its mathematics, so none is part of its identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError, nearest, require
from groundup.evaluation.config import Evaluation as Options

if TYPE_CHECKING:
    from lightning import Callback

group(
    "callback",
    "what watches a run: progress, speed, slow ranks, samples, averaged weights, curves, evaluation, instability and "
    "what is done about it, checkpoints",
    many=True,
)

_FIRST = ("stragglers", "ema", "monitor", "recovery", "throughput", "progress", "samples", "curves")
_LAST = ("checkpoint",)
POLICIES = ("escalate", "olmo_core", "llm_foundry")
MEASURES = ("rate", "embedding")
SIGNALS = "signals.csv"
"""Loss and gradient norm of every step of a run that `recovery` watches."""


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


@schema("callback", "monitor")
class Monitor:
    """What moves before a loss does: norms, spikes, the largest logit, the gradient's noise; see `monitor/...`."""

    window: int = option(1000, "values that a spike is told by, and of which the score is the share", at_least=20)
    sigmas: float = option(7.0, "so many standard deviations from their mean is a spike (OLMo 2)", above=0)
    noise_memory: int = option(100, "steps over which the gradient's noise is averaged", at_least=1)
    logit_every: int | None = option(
        100, "look at one row's logits each time so many steps are done; null: never", above=0
    )

    steers = True

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.monitor import Monitor

        return Monitor(self)


@schema("callback", "recovery")
class Recovery:
    """Refuses steps that would do harm, and goes back to before a spike: see docs/guide/recovery.md."""

    policy: str = option("escalate", "who decides: this project's, or a rule published elsewhere", choices=POLICIES)
    window: int = option(256, "steps whose losses and gradient norms are what is usual", at_least=16)
    active_after: int = option(64, "steps from the start or a planned change on before anything is unusual", at_least=2)
    sigmas: float = option(8.0, "so many robust deviations above the median is a spike", above=0)
    skips: int = option(2, "skip at most so many steps in a row; then let it train, as most spikes heal", at_least=0)
    patience: int = option(10, "roll back once the loss stood in a spike for so many steps", at_least=1)
    broken: int = option(3, "roll back once so many steps in a row were not finite", at_least=1)
    slow_memory: int = option(100, "steps over which the loss is smoothed to see slow growth", at_least=2)
    slow_rise: float = option(0.02, "smoothed loss above the best by this share is growth", above=0)
    slow_patience: int = option(500, "roll back once it has stayed there for so many steps", at_least=1)
    margin: int = option(100, "go back to so many steps before the first sign (PaLM: about 100)", at_least=0)
    skip_steps: int = option(300, "do not serve the samples of so many steps from there on (PaLM: 200-500)", at_least=0)
    near: int = option(1000, "a further spike within so many steps of an earlier one calls for more", at_least=1)
    escalation: list[str] = option(
        ["rate", "embedding"], "what is done at the second, third, ... spike near one place; then the run stops"
    )
    rate_factor: float = option(0.67, "multiplies the rate (OPT-175B went to 2/3)", above=0, below=1)
    embedding_factor: float = option(0.1, "multiplies the embeddings' gradient (GLM-130B)", above=0, below=1)
    most: int = option(20, "stop after so many roll-backs in all", at_least=0)

    steers = True

    def __post_init__(self) -> None:
        if self.active_after > self.window:
            raise ConfigError(
                f"active_after={self.active_after}",
                f"is more than window={self.window}",
                "lower it or widen the window",
            )
        for measure in self.escalation:
            if measure not in MEASURES:
                raise ConfigError(
                    f"escalation={list(self.escalation)}", f"allowed: {', '.join(MEASURES)}", nearest(measure, MEASURES)
                )

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.recovery import Recovery

        return Recovery(self)


@schema("callback", "checkpoint")
class Checkpoint:
    """Whole or absent, hashed, verified: the run so far, from which the same command goes on bitwise."""

    every: int | None = option(250, "save each time so many steps are done; null: at the end only", above=0)
    asynchronous: bool = option(True, "write beside training, from a copy in the host's memory; false: training waits")
    keep_latest: int = option(2, "how many of the newest stay", at_least=1)
    keep_every: int | None = option(None, "one each so many steps stays for good, a multiple of every", above=0)
    keep_best: bool = option(True, "the one with the lowest held-out bits per byte stays too")
    mirror: str | None = option(
        None,
        "a URL for fsspec, s3://bucket/runs say: each is copied there, and comes back where the run folder is lost",
    )

    def __post_init__(self) -> None:
        if self.keep_every is not None and (self.every is None or self.keep_every % self.every):
            raise ConfigError(
                f"keep_every={self.keep_every}",
                f"is no multiple of every={'null' if self.every is None else self.every}",
                "keep only steps that are saved",
            )

    def build(self) -> Callback:
        """The callback."""
        from groundup.callback.checkpoint import Checkpoint

        return Checkpoint(self)
