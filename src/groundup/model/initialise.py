"""How weights begin, and how rates go with the width; it knows the parts by their names and nothing of training."""

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

EMBEDDINGS = ("trunk.embedding.weight", "trunk.positions.weight")


@torch.no_grad()
def initialise(net: Net, config: Config) -> None:
    """Draw every weight anew from torch's generator, in the order of the names.

    `gaussian`: all of standard deviation 0.02 (`init_std`), as in BERT (Devlin et al. 2019).

    `gpt2`: the same, those that write to the stream divided by sqrt(2 L), so that the stream's variance at the end
    does not grow with the depth (Radford et al. 2019, section 2.3).

    `depth`: uniform with variance 2 / (fan-in + fan-out), those of layer l divided by sqrt(l), so that gradients do
    not vanish through norms behind the sums (Zhang et al. 2019, DS-Init, section 4); embeddings as in `gaussian`.

    `small`: Gaussians of variance 2 / (5 D) (Nguyen & Salazar 2019), those that write to the stream of standard
    deviation 2 / (L sqrt D) (Wang & Komatsuzaki 2021), as in GPT-NeoX and Pythia.

    `fan_in`: Gaussians of variance 1 / fan-in, the embedding of variance 1, as in PaLM (Chowdhery et al. 2022,
    section 5).

    `modern`: every block begins as the identity, since what writes to the stream is zero (Zhang et al. 2019,
    Fixup); the other matrices are uniform with variance 1 / fan-in; embeddings have unit variance, the head a small
    one, so that the first predictions are nearly uniform (as in nanochat). A tied embedding is Gaussian with 0.02.

    With `mup_base` the matrices of blocks that do not shrink with their fan-in by themselves are divided by the square
    root of width / mup_base (Yang et al. 2022, table 8).

    Biases begin at zero and gains at one in all. A network built on the meta device has not begun: call this once
    memory is there.
    """
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name.endswith(".mix"):
            parameter.copy_(torch.tensor([1.0, 0.0]))
        elif name.endswith("shift.scale"):
            parameter.zero_()
        elif config.init == "modern":
            _modern(name, parameter, config)
        elif config.init == "depth" and name.startswith("trunk.blocks."):
            layer = 1 + int(name.split(".")[2])
            bound = math.sqrt(6 / (parameter.shape[-1] + parameter.shape[-2]) / layer)
            parameter.uniform_(-bound, bound)
        else:
            parameter.normal_(0.0, _std(name, parameter, config))


def _std(name: str, parameter: nn.Parameter, config: Config) -> float:
    """The standard deviation of a Gaussian weight."""
    residual = name.endswith(RESIDUAL)
    if config.init == "fan_in":
        return 1.0 if name in EMBEDDINGS else 1 / math.sqrt(parameter.shape[-1])
    if config.init == "small":
        return 2 / (config.layers * math.sqrt(config.width)) if residual else math.sqrt(0.4 / config.width)
    std = 0.02 if config.init_std is None else config.init_std
    if config.mup_base is not None and name.startswith("trunk.blocks."):
        std *= math.sqrt(config.mup_base / config.width)
    return std / math.sqrt(2 * config.layers) if residual and config.init == "gpt2" else std


def _modern(name: str, parameter: nn.Parameter, config: Config) -> None:
    bound = math.sqrt(3 / config.width)
    if name.endswith(RESIDUAL):
        parameter.zero_()
    elif name == "head.weight":
        parameter.normal_(0.0, 0.001)
    elif name.startswith("trunk.values."):
        parameter.uniform_(-bound, bound)
    elif name in EMBEDDINGS:
        parameter.normal_(0.0, 0.02 if config.tied else 1.0)
    elif name.endswith(("value_gate.weight", "shift.gate.weight")):
        parameter.zero_()
    else:
        bound = math.sqrt(3 / parameter.shape[-1])
        parameter.uniform_(-bound, bound)


def rate_scales(net: Net, config: Config) -> dict[str, float]:
    """By what the learning rate of a parameter is multiplied for the network's width, by name; of others by 1.

    Under Adam's rule a matrix of a block moves each of its outputs by about its fan-in, so its rate is divided by
    width / mup_base (Yang et al. 2022, table 8); the head's output is divided by that instead (see `Head`).
    """
    if config.mup_base is None:
        return {}
    scale = config.mup_base / config.width
    return {name: scale for name, p in net.named_parameters() if name.startswith("trunk.blocks.") and p.dim() > 1}
