"""What moves before a loss does: norms of the embeddings' gradient and of updates, logits, spikes, noise.

It watches and changes nothing; what is to be done about what it shows is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from groundup.callback import config
from groundup.callback.samples import undisturbed
from groundup.callback.statistic import NoiseScale, SpikeScore
from groundup.callback.watched import Watched, log, watched
from groundup.data.step import Step
from groundup.model.net import Net
from groundup.objective.base import Stepping
from groundup.optimizer.group import role
from groundup.strategy.stepping import Stepping as Plain


class Monitor(Callback):
    """Logs `monitor/...` with the rows of the log; at other steps the device is not waited for.

    `embedding_gradient_norm` is taken before clipping; `update_norm` is that of the weights' change, decay included.
    `loss_spikes` and `gradient_spikes` are scores from 0 to 1. `critical_batch_tokens` is the gradient noise scale, and
    `noise_scale` the same in samples: the gradient of each rank's first micro-batch is set against that of the step, so
    there must be two micro-batches or more, and a strategy that takes them one after the other and copies the nets.
    `largest_logit` is that of one row, where each rank has the whole net.
    """

    def __init__(self, options: config.Monitor) -> None:
        self.options = options
        self.spikes = SpikeScore(2, options.window, options.sigmas, torch.device("cpu"))
        self.noise = NoiseScale(options.noise_memory, torch.device("cpu"))
        self._small: Tensor | None = None
        self._before: dict[nn.Parameter, Tensor] = {}
        self._embedding: Tensor | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch; the checkpoint says afterwards what had been seen."""
        module = watched(pl_module)
        self.spikes = SpikeScore(2, self.options.window, self.options.sigmas, module.device)
        self.noise = NoiseScale(self.options.noise_memory, module.device)

        def gate(step: Step, means: Mapping[str, Tensor], norm: Tensor) -> bool:
            self._look(trainer, module, step, means, norm)
            return True

        def between(step: Step, number: int) -> None:
            if number == 1:
                self._small = self._first_gradient(trainer, module, step)

        module.gates.append(gate)
        if _in_turn(trainer.strategy):
            module.between.append(between)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Log what was seen, if it is time to."""
        module = watched(pl_module)
        figures: dict[str, Tensor] = {}
        if self._before:
            figures |= self._figures(trainer, batch)
        every = self.options.logit_every
        if every is not None and module.progress.steps % every == 0:
            figures |= _largest_logit(trainer, module, batch)
        if figures:
            values = torch.stack([value.float() for value in figures.values()]).tolist()
            found = dict(zip(figures, values, strict=True))
            if not 0 < found.get("critical_batch_tokens", 1.0) < float("inf"):  # the signal drowns
                del found["critical_batch_tokens"], found["noise_scale"]
            log(trainer, {f"monitor/{name}": value for name, value in found.items()}, module.progress.steps)

    def state(self) -> dict[str, Tensor]:
        """What was seen, not copied."""
        return {
            "values": self.spikes.values,
            "far": self.spikes.far,
            "noise": self.noise.sums,
            "count": torch.tensor(self.spikes.count),
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave; of another window it is of no use."""
        own = self.state()
        if {name: value.shape for name, value in tensors.items()} == {name: v.shape for name, v in own.items()}:
            self.spikes.count = int(tensors.pop("count"))
            for name, value in tensors.items():
                own[name].copy_(value)

    def _first_gradient(self, trainer: Trainer, module: Watched, step: Step) -> Tensor:
        """Squared norm of the first micro-batch's mean gradient, the inverse of its targets, and whether it has any."""
        norm = _stepping(trainer).gradient_norm(list(module.nets.parameters()))
        targets = step.micro_batches[0].targets().to(norm.device)
        inverse = 1 / targets.clamp(min=1)
        return torch.stack(((norm * inverse * step.targets).square(), inverse, torch.ones_like(inverse))) * (
            targets > 0
        )

    def _look(self, trainer: Trainer, module: Watched, step: Step, means: Mapping[str, Tensor], norm: Tensor) -> None:
        """Take in a step whose gradient is there and whose update is not done."""
        self.spikes.add(torch.stack((means["loss"].to(norm.device).float(), norm.float())))
        if self._small is not None:
            small, inverse, ranks = _stepping(trainer).sum_over_ranks(self._small).unbind()
            self.noise.add(small / ranks, inverse / ranks, norm.square(), step.targets)
            self._small = None
        after = module.progress.after(samples=step.samples, tokens=step.tokens)
        if after.steps % module.setting.log_every and after.tokens < module.total.tokens:
            return
        named = {name: weight for name, weight in module.nets.named_parameters() if weight.requires_grad}
        embeddings = [weight for name, weight in named.items() if role(name, weight) == "embedding"]
        self._embedding = _stepping(trainer).gradient_norm(embeddings)
        self._before = {weight: weight.detach().clone() for weight in named.values()}

    @torch.no_grad()
    def _figures(self, trainer: Trainer, step: Step) -> dict[str, Tensor]:
        assert self._embedding is not None
        weights = list(self._before)
        for weight, before in self._before.items():
            weight.grad = weight.detach() - before  # a norm over ranks is the strategy's, and that of gradients
        update = _stepping(trainer).gradient_norm(weights)
        for weight in weights:
            weight.grad = None
        self._before = {}
        losses, norms = self.spikes.shares().unbind()
        found = {
            "embedding_gradient_norm": self._embedding,
            "update_norm": update,
            "loss_spikes": losses,
            "gradient_spikes": norms,
        }
        if self.noise_is_known:
            critical = self.noise.targets()
            found |= {"noise_scale": critical * (step.samples / step.targets)}
            found |= {"critical_batch_tokens": critical * (step.tokens / step.targets)}
        return found

    @property
    def noise_is_known(self) -> bool:
        """Whether steps have two micro-batches or more, here where they come in turn."""
        return bool(self.noise.sums[2] > 0)


def _stepping(trainer: Trainer) -> Stepping:
    return cast(Stepping, trainer.strategy)


def _in_turn(strategy: Any) -> bool:
    """Whether micro-batches are taken one after the other, and their gradients are there in between."""
    return (
        isinstance(strategy, Plain)
        and strategy.whole
        and type(strategy).forward_backward is Plain.forward_backward
        and type(strategy).gradient_norm is Plain.gradient_norm
    )


@torch.no_grad()
def _largest_logit(trainer: Trainer, module: Watched, step: Step) -> dict[str, Tensor]:
    """Of the first row of a micro-batch, without dropout."""
    net = dict(module.nets.items()).get("model")
    if not isinstance(net, Net) or not getattr(trainer.strategy, "whole", True):
        return {}
    batch = step.micro_batches[0]
    given = {name: value[:1] for name, value in batch.there().items() if name != "targets_BT"}
    half = module.setting.precision == "bf16"
    with (
        undisturbed(module),
        torch.compiler.set_stance("force_eager"),  # one row is another shape than what was compiled for
        torch.autocast(module.device.type, torch.bfloat16, enabled=half),
    ):
        return {"largest_logit": net(**given).abs().max()}
