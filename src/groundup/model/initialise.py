"""How weights begin; it knows the parts by their names and nothing of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config
    from groundup.model.decoder import Decoder as Net

RESIDUAL = ("attention.output.weight", "feedforward.down.weight")
"""Matrices whose output is added to the stream."""


@torch.no_grad()
def initialise(net: Net, config: Config) -> None:
    """Draw every weight anew from torch's generator, in the order of the names.

    `gpt2`: Gaussians of standard deviation 0.02 (`init_std`), those that write to the stream divided by sqrt(2 L),
    so that the stream's variance at the end does not grow with the depth (Radford et al. 2019, section 2.3).

    `modern`: every block begins as the identity, since what writes to the stream is zero (Zhang et al. 2019,
    Fixup); the other matrices are uniform with variance 1 / fan-in; embeddings have unit variance, the head a small
    one, so that the first predictions are nearly uniform (as in nanochat). A tied embedding is Gaussian with 0.02.

    Biases begin at zero and gains at one in both. On the meta device nothing happens; call it again once memory is
    there.
    """
    for name, parameter in net.named_parameters():
        if name.endswith(".bias"):
            parameter.zero_()
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name.endswith(".mix"):
            parameter.copy_(torch.tensor([1.0, 0.0]))
        elif name.endswith("shift.scale"):
            parameter.zero_()
        elif config.init == "gpt2":
            _gaussian(name, parameter, config)
        else:
            _modern(name, parameter, config)


def _gaussian(name: str, parameter: nn.Parameter, config: Config) -> None:
    std = 0.02 if config.init_std is None else config.init_std
    parameter.normal_(0.0, std / math.sqrt(2 * config.layers) if name.endswith(RESIDUAL) else std)


def _modern(name: str, parameter: nn.Parameter, config: Config) -> None:
    bound = math.sqrt(3 / config.width)
    if name.endswith(RESIDUAL):
        parameter.zero_()
    elif name == "head.weight":
        parameter.normal_(0.0, 0.001)
    elif name.startswith("trunk.values."):
        parameter.uniform_(-bound, bound)
    elif name in ("trunk.embedding.weight", "trunk.positions.weight"):
        parameter.normal_(0.0, 0.02 if config.tied else 1.0)
    elif name.endswith(("value_gate.weight", "shift.gate.weight")):
        parameter.zero_()
    else:
        bound = math.sqrt(3 / parameter.shape[1])
        parameter.uniform_(-bound, bound)
