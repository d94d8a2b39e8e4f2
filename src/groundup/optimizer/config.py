"""Options of the optimizers; importing this imports no torch.

Each `build` takes named parameters and gives ONE `torch.optim.Optimizer` whose groups (see `group.ROLES`) hold `lr`
and `peak`: whoever trains sets `group["lr"] = group["peak"] * factor` before each step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Named = Iterable[tuple[str, nn.Parameter]]

group("optimizer", "how the weights are moved along their gradients")


@dataclasses.dataclass(kw_only=True)
class Common:
    """What all optimizers share: who decays, who moves faster, who is made sparse."""

    rates: ClassVar[tuple[str, ...]] = ("rate",)
    """Options that are learning rates; lowering all of them lowers the rate of every parameter alike."""

    rules: ClassVar[dict[str, str]] = {}
    """The optimizer by whose rule parameters of a role are moved, where it is another (see `group.carries`)."""

    weight_decay: float = option(0.0, "weight decay of matrices; 1-D parameters never decay", at_least=0)
    decay_embeddings: bool = option(False, "embeddings decay too")
    embedding_rate: float = option(1.0, "multiplies the rate of embeddings", above=0)
    head_rate: float = option(1.0, "multiplies the rate of the output head, unless it is tied", above=0)
    vector_rate: float = option(1.0, "multiplies the rate of 1-D parameters", above=0)
    l1: float = option(0.0, "L1 penalty on what may decay, by soft threshold after each step", at_least=0)

    def groups(self, named_parameters: Named, matrix: float, rest: float) -> list[dict[str, Any]]:
        """Parameter groups with these options' rates and decays.

        Args:
            named_parameters: each parameter once, by its full name.
            matrix: peak rate of the matrices inside blocks.
            rest: peak rate of the others, before their multipliers.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        from groundup.optimizer.group import groups

        peaks = {
            "matrix": matrix,
            "embedding": rest * self.embedding_rate,
            "head": rest * self.head_rate,
            "other": rest,
            "vector": rest * self.vector_rate,
        }
        decaying = ("matrix", "head", "other", *(["embedding"] if self.decay_embeddings else []))
        return groups(named_parameters, peaks, dict.fromkeys(decaying, self.weight_decay), self.l1)


@schema("optimizer", "adamw")
class AdamW(Common):
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), fused into one kernel."""

    rate: float = option(6e-4, "peak learning rate", above=0)
    weight_decay: float = option(0.1, "weight decay of matrices; 1-D parameters never decay", at_least=0)
    beta1: float = option(0.9, "memory of the mean gradient", at_least=0, below=1)
    beta2: float = option(0.95, "memory of the mean squared gradient", at_least=0, below=1)
    eps: float = option(1e-8, "added to the root of the mean square", above=0)

    def build(self, named_parameters: Named) -> Optimizer:
        """The optimizer over the trainable ones of these parameters.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        import torch

        from groundup.optimizer.sparse import with_l1

        groups = self.groups(named_parameters, self.rate, self.rate)
        made = torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), eps=self.eps, fused=_fusible(groups))
        return with_l1(made)


@schema("optimizer", "muon")
class Muon(Common):
    """Orthogonalised momentum for the matrices inside blocks (Jordan et al. 2024), AdamW for everything else."""

    rates = ("rate", "adamw_rate")
    rules: ClassVar[dict[str, str]] = dict.fromkeys(("embedding", "head", "other", "vector"), "adamw")

    rate: float = option(
        0.02, "peak learning rate of matrices; the update's largest singular value is about this", above=0
    )
    adamw_rate: float = option(3e-3, "peak learning rate of everything else", above=0)
    momentum: float = option(0.95, "memory of the gradient", at_least=0, below=1)
    nesterov: bool = option(True, "look one step ahead along the momentum")
    weight_decay: float = option(0.01, "weight decay of matrices; 1-D parameters never decay", at_least=0)
    cautious: bool = option(False, "decay a number only where its update moves it towards zero anyway")
    polynomial: str = option("jordan", "iteration that orthogonalises", choices=("jordan", "polar"))
    precision: str = option("auto", "of that iteration; auto: bf16 where native", choices=("auto", "bf16", "fp32"))
    beta1: float = option(0.9, "AdamW: memory of the mean gradient", at_least=0, below=1)
    beta2: float = option(0.95, "AdamW: memory of the mean squared gradient", at_least=0, below=1)
    eps: float = option(1e-10, "AdamW: added to the root of the mean square", above=0)

    def build(self, named_parameters: Named) -> Optimizer:
        """The optimizer over the trainable ones of these parameters.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        from groundup.optimizer import muon
        from groundup.optimizer.sparse import with_l1

        groups = [
            {**group, "muon": group["name"] == "matrix"}
            for group in self.groups(named_parameters, self.rate, self.adamw_rate)
        ]
        made = muon.Muon(
            groups,
            momentum=self.momentum,
            nesterov=self.nesterov,
            cautious=self.cautious,
            polynomial=self.polynomial,
            precision=self.precision,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=_fusible(groups),
        )
        return with_l1(made)


@schema("optimizer", "sgd")
class SGD(Common):
    """Stochastic gradient descent with momentum; its weight decay is the classic L2 term in the gradient."""

    rate: float = option(0.1, "peak learning rate", above=0)
    momentum: float = option(0.9, "memory of the gradient", at_least=0, below=1)
    nesterov: bool = option(False, "look one step ahead along the momentum (Sutskever et al. 2013)")

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov=true", "looks ahead along a momentum of 0", "set momentum above 0")

    def build(self, named_parameters: Named) -> Optimizer:
        """The optimizer over the trainable ones of these parameters.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        import torch

        from groundup.optimizer.sparse import with_l1

        groups = self.groups(named_parameters, self.rate, self.rate)
        # never fused: torch 2.13's kernel for the CPU skips most of a bf16 parameter (pytorch issue 191763)
        return with_l1(torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov))


@schema("optimizer", "adafactor")
class Adafactor(Common):
    """Second moments as row and column means (Shazeer & Stern 2018); steps are relative to a parameter's size.

    torch bounds the rate by 1 / sqrt(step), as the paper does, and multiplies it by the parameter's root mean square.
    """

    rate: float = option(1e-2, "peak relative step", above=0)
    beta2_decay: float = option(-0.8, "the memory of squares is 1 - step ** this", below=0)
    least_scale: float = option(1e-3, "lower bound of a parameter's root mean square", above=0)
    clip: float = option(1.0, "upper bound of an update's root mean square", at_least=1)

    def build(self, named_parameters: Named) -> Optimizer:
        """The optimizer over the trainable ones of these parameters.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        import torch

        from groundup.optimizer.sparse import with_l1

        groups = self.groups(named_parameters, self.rate, self.rate)
        made = torch.optim.Adafactor(groups, beta2_decay=self.beta2_decay, eps=(None, self.least_scale), d=self.clip)
        return with_l1(made)


@schema("optimizer", "lion")
class Lion(Common):
    """The sign of an interpolated momentum (Chen et al. 2023).

    The paper sets the rate 3 to 10 times below AdamW's and the weight decay as many times above.
    """

    rate: float = option(1e-4, "peak learning rate", above=0)
    weight_decay: float = option(0.3, "weight decay of matrices; 1-D parameters never decay", at_least=0)
    beta1: float = option(0.9, "share of momentum in an update", at_least=0, below=1)
    beta2: float = option(0.99, "memory of the gradient", at_least=0, below=1)

    def build(self, named_parameters: Named) -> Optimizer:
        """The optimizer over the trainable ones of these parameters.

        Raises:
            ValueError: a parameter given twice, or none that is trainable.
        """
        from groundup.optimizer import lion
        from groundup.optimizer.sparse import with_l1

        groups = self.groups(named_parameters, self.rate, self.rate)
        return with_l1(lion.Lion(groups, betas=(self.beta1, self.beta2)))


def _fusible(groups: list[dict[str, Any]]) -> bool:
    """Whether torch has a fused kernel for every parameter: one pass over memory instead of a dozen."""
    devices = ("cpu", "cuda", "mps", "xpu")
    return all(p.is_floating_point() and p.device.type in devices for group in groups for p in group["params"])
