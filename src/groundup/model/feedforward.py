"""The feed-forward of a block: each position by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from groundup.model.linear import Linear

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config


class FeedForward(nn.Module):
    """Two linear maps around an activation, or SwiGLU's three.

    `gelu` (Hendrycks & Gimpel 2016), exact or by tanh; `relu2`, the squared ReLU (So et al. 2021, Primer);
    `swiglu`, a linear map times the SiLU of another (Shazeer 2020).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = Linear(config.width, config.feedforward, bias=config.bias)
        gated = config.activation == "swiglu"
        self.gate = Linear(config.width, config.feedforward, bias=config.bias) if gated else None
        self.down = Linear(config.feedforward, config.width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        hidden_BTF = self.up(x_BTD)
        if self.gate is not None:
            hidden_BTF = functional.silu(self.gate(x_BTD)) * hidden_BTF
        elif self.activation == "relu2":
            hidden_BTF = functional.relu(hidden_BTF).square()
        else:
            hidden_BTF = functional.gelu(hidden_BTF, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        mixed: Tensor = self.down(hidden_BTF)
        return mixed
