"""The feed-forward of a block: each position by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.linear import Linear

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


def _relu2(x: Tensor) -> Tensor:
    positive = functional.relu(x)
    return positive.square() if torch.is_grad_enabled() else positive.square_()


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu2": _relu2,
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
    "swiglu": functional.silu,
    "geglu": functional.gelu,
    "geglu_tanh": _gelu_tanh,
}
"""What is applied to the hidden channels, or to the gate."""


def activated(activation: str, up: Tensor, gate: Tensor | None) -> Tensor:
    """The hidden channels behind their activation, or beside their gate's."""
    activate = ACTIVATIONS[activation]
    return activate(up) if gate is None else activate(gate) * up


class FeedForward(nn.Module):
    """Two linear maps around an activation, or SwiGLU's three.

    `gelu` (Hendrycks & Gimpel 2016), exact or by tanh; `relu2`, the squared ReLU (So et al. 2021, Primer);
    `swiglu` and `geglu`, a linear map times the SiLU or GELU of another (Shazeer 2020).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = Linear(config.width, config.feedforward, bias=config.bias)
        self.gate = Linear(config.width, config.feedforward, bias=config.bias) if config.gated else None
        self.down = Linear(config.feedforward, config.width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        gate_BTF = None if self.gate is None else self.gate(x_BTD)
        mixed: Tensor = self.down(activated(self.activation, self.up(x_BTD), gate_BTF))
        return mixed
