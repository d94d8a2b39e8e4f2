"""The LightningModule that all objectives share: one optimizer step per item, everything else left to its loss.

A subclass says what its nets are and what its loss is; it knows neither shards nor devices nor schedules.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import lightning
import torch
from torch import Tensor, nn

from groundup.core.bits import OF_TEXT, Tally, per_source
from groundup.core.errors import UserError
from groundup.core.keyed import derive
from groundup.core.progress import Progress
from groundup.data.step import Batch, Step
from groundup.model.load import fill
from groundup.model.net import Net
from groundup.model.noise import seed_noise
from groundup.optimizer.group import carries, rescale, role
from groundup.tokenizer.protocol import Tokenizer


@dataclasses.dataclass(kw_only=True)
class Setting:
    """Where in a run an objective stands, and how it computes.

    Attributes:
        seed: of the run; every draw is keyed by it.
        first: the clock at which this objective starts.
        total: the clock at the end of the run, on which schedules are laid out.
        folder: the run folder.
        tokenizer: gives the bytes of each token for bits per byte.
        sources: names of the held-out sets, in the order of the validation loaders.
        precision: "bf16" to run forward passes under autocast, "fp64" for weights of so many bits, else "fp32".
        compile: compile the nets' trunk and head in place.
        log_every: optimizer steps between rows of the log.
        before: config of the optimizer that made the state which is gone on from, where it is of another kind.
    """

    seed: int
    first: Progress
    total: Progress
    folder: Path
    tokenizer: Tokenizer | None = None
    sources: Sequence[str] = ()
    precision: str = "fp32"
    compile: bool = False
    log_every: int = 10
    before: Any = None


class Stepping(Protocol):
    """What every strategy of groundup offers an objective (see `groundup.strategy`)."""

    def spread(self, nets: nn.ModuleDict) -> None:
        """Lay freshly built nets out over the ranks, in place, and give them memory."""

    def compile(self, nets: nn.ModuleDict) -> None:
        """Compile the nets in place."""

    @property
    def elsewhere(self) -> Mapping[str, torch.Size]:
        """Shapes of the nets' parameters and buffers that other ranks hold and this one does not, by their names."""

    def forward_backward(self, micro_batches: Sequence[Batch], loss: Callable[[int, Batch], Tensor]) -> None:
        """Add the gradient of the summed losses, over all micro-batches of all ranks, to the parameters."""

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank."""

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The 2-norm of the whole gradient, over all shards."""

    def scale_gradients(self, parameters: Sequence[nn.Parameter], factor: Tensor) -> None:
        """Multiply the whole gradient by a scalar."""


Gate = Callable[[Step, Mapping[str, Tensor], Tensor], bool]


class Objective(lightning.LightningModule):
    """Base of all objectives: manual optimization, keyed noise, the clock, bits per byte.

    Args:
        config: the objective's own options; `clip` and, where there is one, `embedding_gradient` are read here.
        nets: a model config per net; all of them are trained.
        optimizer: config of the optimizer group.
        schedule: config of the schedule group.
        setting: where in the run this stands.

    Attributes:
        gates: each is asked about every step before its update, with the step, its means and the gradient's norm,
            which are the same on all ranks; where one says no, the gradient is dropped and the weights stay.
        between: called before each micro-batch's forward pass with its number, while the gradient is that of the step's
            micro-batches before it (in strategies that take them one after the other).
        abandoned: what was done since an older checkpoint will not be gone on from, so that nobody need save it.
    """

    def __init__(self, config: Any, nets: dict[str, Any], optimizer: Any, schedule: Any, setting: Setting) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.net_configs = nets
        self.optimizer_config = optimizer
        self.schedule = schedule
        self.setting = setting
        self.progress = setting.first
        self.last: dict[str, float | Tensor] = {}
        self.validation: dict[str, float] = {}
        self.gates: list[Gate] = []
        self.between: list[Callable[[Step, int], None]] = []
        self.abandoned = False
        self.nets = nn.ModuleDict()
        self._finished: Path | None = None
        self._read: Callable[[Net], None] | None = None
        self._sums: dict[int, Tensor] = {}
        self._bytes: Tensor | None = None

    # What a subclass states

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """The output of the nets that `loss` needs."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over targets, never normalised, and further sums worth logging."""

    # What it offers those who watch

    @property
    def total(self) -> Progress:
        """The clock at the end of the run."""
        return self.setting.total

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.setting.folder

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the data."""
        return self.setting.tokenizer

    @property
    def unit(self) -> str:
        """What figures of held-out text are in."""
        return str(getattr(self.config, "unit", OF_TEXT))  # a plugin's need not say

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs a training token costs, forward and backward (PaLM, appendix B)."""
        return float(sum(self._flops(config) for config in self.net_configs.values()))

    # Lightning's hooks

    def configure_model(self) -> None:
        """Build the nets from their configs and spread them; weights come afterwards, so that no rank need hold all.

        A seed gives the same weights on any number of ranks.
        """
        if len(self.nets):
            return
        for name, config in self.net_configs.items():
            with torch.device("meta"):
                self.nets[name] = config.build()
            if not hasattr(self.nets[name], "begin"):  # a plugin's network need not be able to begin later
                self._seed(name)
                self.nets[name] = config.build()
        if self.setting.precision == "fp64":
            self.nets.double()
        if self._trainer is not None:
            cast(Stepping, self.trainer.strategy).spread(self.nets)
        else:  # in a notebook; nets are whole, where they are
            for net in self.nets.values():
                if any(parameter.is_meta for parameter in net.parameters()):
                    net.to_empty(device="cpu")
        for name, config in self.net_configs.items():
            begun_with = getattr(config, "init_from", None)  # nor know of it
            if self._read is not None:
                self._read(cast(Net, self.nets[name]))
            elif self._finished is not None:
                self.fill(name, self._finished)
            elif begun_with is not None and self.progress.steps == 0:
                fill(cast(Net, self.nets[name]), Path(begun_with))
            elif hasattr(self.nets[name], "begin"):
                self._seed(name)
                cast(Net, self.nets[name]).begin()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over all trainable parameters; compilation waits until the nets stand on their device."""
        if self.setting.compile:
            cast(Stepping, self.trainer.strategy).compile(self.nets)
        optimizer = cast(torch.optim.Optimizer, self.optimizer_config.build(self.nets.named_parameters()))
        scales: dict[str, float] = {}
        for name, net in self.nets.items():
            if hasattr(net, "rate_scales"):  # a plugin's network need not have any
                scales |= {f"{name}.{parameter}": scale for parameter, scale in cast(Any, net).rate_scales().items()}
        if scales:
            rescale(optimizer, self.nets.named_parameters(), scales)
        if self.setting.before is not None:
            for group in optimizer.param_groups:
                group["anew"] = not carries(self.setting.before, self.optimizer_config, group.get("name"))
        return optimizer

    def training_step(self, step: Step, index: int) -> None:
        """Do one optimizer step on all micro-batches of a Step."""
        del index  # a segment may start anywhere: the Step itself says which it is
        sums = self.gradients(step)
        total = cast(Stepping, self.trainer.strategy).sum_over_ranks(torch.stack(list(sums.values())))
        self.update(step, dict(zip(sums, (total / step.targets).unbind(), strict=True)))

    def gradients(self, step: Step) -> dict[str, Tensor]:
        """Add the gradient of a Step's mean loss to the parameters; gives this rank's sums, `loss` first."""
        sums: dict[str, Tensor] = {}

        def loss(number: int, batch: Batch) -> Tensor:
            for look in self.between:
                look(step, number)
            total, metrics = self.loss(self.output(step, number, batch), batch)
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
            mean: Tensor = total / step.targets
            return mean

        cast(Stepping, self.trainer.strategy).forward_backward(step.micro_batches, loss)
        return {name: _at_least_fp32(value) for name, value in sums.items()}

    def output(self, step: Step, number: int, batch: Batch) -> Any:
        """What `forward` makes of a micro-batch of a Step, with the noise that is its own."""
        seed_noise(derive(self.setting.seed, "noise", step.step, step.micro_numbers[number]), self.device)
        with self.autocast():
            return self(batch)

    def update(self, step: Step, means: dict[str, Tensor]) -> None:
        """Move the weights along the gradients of a Step, if no gate objects, the clock by its samples; tell of it."""
        after = self.progress.after(samples=step.samples, tokens=step.tokens)
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        factor = self.schedule.factor(after, self.total)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        strategy = cast(Stepping, self.trainer.strategy)
        norm = self._norm(strategy)
        answers = [gate(step, means, norm) for gate in self.gates]  # every one is asked
        if all(answers):
            self._clip(strategy, norm)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.progress = after
        self.last = {
            **means,
            "gradient_norm": norm,
            "rate": max(group["lr"] for group in optimizer.param_groups),
            "tokens": float(after.tokens),
        }
        if not all(answers):  # there is no harm in what was not done, so it is only told
            self._log({f"train/{name}": float(value) for name, value in {**self.last, "skipped": 1.0}.items()})
        elif after.steps % self.setting.log_every == 0 or after.tokens >= self.total.tokens:
            self.write({f"train/{name}": float(value) for name, value in self.last.items()})

    def validation_step(self, step: Step, index: int, dataloader_idx: int = 0) -> None:
        """Add a held-out Step's nats, bytes and tokens to the sums of its source."""
        del index
        for batch in step.micro_batches:
            with self.autocast():
                nats = self.score(batch)
            kept = batch.targets_BT >= 0
            sums = torch.stack([nats.double().sum(), self._bytes_of(batch.targets_BT, kept), kept.sum().double()])
            before = self._sums.get(dataloader_idx)
            self._sums[dataloader_idx] = sums if before is None else before + sums

    def on_validation_epoch_start(self) -> None:
        """Start the sums anew."""
        self._sums = {}

    def on_validation_epoch_end(self) -> None:
        """Turn the sums into bits per byte (per token where no tokenizer is known) for each source and all."""
        if not self._sums:  # nothing was read
            return
        strategy = cast(Stepping, self.trainer.strategy)
        tallies: dict[str, Tally] = {}
        for number, sums in sorted(self._sums.items()):
            nats, count, tokens = strategy.sum_over_ranks(sums).tolist()
            tallies[self.setting.sources[number]] = Tally(nats, int(count), int(tokens))
        self.validation = per_source(tallies)
        if self.trainer.state.fn == "fit" or self.progress.steps == 0:
            self.write({f"held_out/{name}": value for name, value in self.validation.items()})

    # Parts

    def take(self, folder: Path) -> None:
        """Begin with the finished weights of a run folder."""
        self._finished = folder

    def read(self, read: Callable[[Net], None]) -> None:
        """Begin with the weights that a function gives each net, which is spread by then."""
        self._read = read

    def fill(self, name: str, folder: Path) -> None:
        """Give a net the finished weights of a run folder."""
        fill(cast(Net, self.nets[name]), folder)

    def score(self, batch: Batch) -> Tensor:
        """Negative log-likelihood in nats of each target, zero where masked: (B, T)."""
        return cast(Tensor, self.nets["model"](**self.shown(batch)))

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """What the net reads of a micro-batch, by the names of its arguments."""
        return batch.there()

    def autocast(self) -> torch.autocast:
        """The forward pass's precision; backward and update stay outside, in the dtypes forward left them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.setting.precision == "bf16")

    def write(self, metrics: dict[str, float]) -> None:
        """Log a row at the clock's step.

        Raises:
            UserError: the loss, of training or held-out text, is no longer finite.
        """
        self._log(metrics)
        for name, which in (("train/loss", "loss"), ("held_out/all", "held-out loss")):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise UserError(
                    f"step {self.progress.steps}",
                    f"the {which} is {metrics[name]}",
                    "lower optimizer.rate or lengthen the schedule's warm-up; checkpoints before this step are good",
                )

    def _log(self, metrics: dict[str, float]) -> None:
        """Log a row at the clock's step, whatever is in it."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.progress.steps)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that receive gradients."""
        return [parameter for parameter in self.nets.parameters() if parameter.requires_grad]

    def _flops(self, model: Any) -> float:
        if getattr(model, "kind", None) != "encoder_decoder":
            return float(model.flops_per_token())
        context = model.closed()[1]
        read, written = self.config.widths(model, context)
        return float(model.flops_per_token(read / context, written / context))

    def _norm(self, strategy: Stepping) -> Tensor:
        """The gradient's norm, once that of embeddings is shrunk (GLM-130B) where the config says so."""
        factor = getattr(self.config, "embedding_gradient", 1.0)  # a plugin's options need not have any
        if factor != 1.0:
            named = self.nets.named_parameters()
            embeddings = [parameter for name, parameter in named if role(name, parameter) == "embedding"]
            strategy.scale_gradients(embeddings, torch.tensor(factor))
        return strategy.gradient_norm(self.trainable())

    def _clip(self, strategy: Stepping, norm: Tensor) -> None:
        if self.config.clip is not None:
            strategy.scale_gradients(self.trainable(), (self.config.clip / (norm + 1e-6)).clamp(max=1.0))

    def _seed(self, name: str) -> None:
        torch.manual_seed(derive(self.setting.seed, "initialise", name))

    def _bytes_of(self, targets_BT: Tensor, kept: Tensor) -> Tensor:
        if self.tokenizer is None:
            return kept.sum().double()
        if self._bytes is None:
            lengths = torch.from_numpy(self.tokenizer.byte_lengths())
            vocabulary = max(config.closed()[0] for config in self.net_configs.values())
            # Ids behind the tokenizer's, masks and sentinels, stand for no text.
            more = lengths.new_zeros(max(0, vocabulary - len(lengths)))
            self._bytes = torch.cat((lengths, more)).to(targets_BT.device)
        return self._bytes[targets_BT.clamp(min=0)].masked_fill(~kept, 0).sum().double()


def _at_least_fp32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
