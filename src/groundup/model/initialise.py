"""How weights begin, and how rates go with the width; it knows the parts by their names and nothing of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groundup.model.parts import put

if TYPE_CHECKING:
    from groundup.model.net import Net
    from groundup.model.options import Transformer as Config

INNER = ("trunk.blocks.", "encoder.blocks.", "head.transform.")
"""Where matrices have the width on both sides."""

RESIDUAL = ("attention.output.weight", "feedforward.down.weight")
"""Matrices whose output is added to the stream."""

EMBEDDINGS = (".embedding.weight", ".positions.weight", ".segments.weight")


@torch.no_grad()
def initialise(net: Net, config: Config) -> None:
    """Draw every weight anew from torch's generator, in the order of the names.

    `gaussian`: all of standard deviation 0.02 (`init_std`), as in BERT (Devlin et al. 2019).

    `gpt2`: the same, those that write to the stream divided by sqrt(2 L), so that the stream's variance at the end
    does not grow with the depth (Radford et al. 2019, section 2.3); by sqrt(3 L) where a layer has cross-attention too.

    `depth`: uniform with variance 2 / (fan-in + fan-out), those of layer l divided by sqrt(l), so that gradients do
    not vanish through norms behind the sums (Zhang et al. 2019, DS-Init, section 4); embeddings as in `gaussian`.

    `small`: Gaussians of variance 2 / (5 D) (Nguyen & Salazar 2019), those that write to the stream of standard
    deviation 2 / (L sqrt D) (Wang & Komatsuzaki 2021), as in GPT-NeoX and Pythia.

    `fan_in`: Gaussians of variance 1 / fan-in, the embedding of variance 1, as in PaLM (Chowdhery et al. 2022,
    section 5); where scores are not scaled, queries of 1 / sqrt C of that, as in T5's code.

    `t_fixup`: uniform with variance 2 / (fan-in + fan-out), embeddings Gaussian with variance 1 / D, and all of it but
    queries, keys and the head scaled down so that N layers without norms move by as much as one: decoder and embeddings
    by (9 N)^(-1/4), encoder by 0.67 N^(-1/4) (Huang et al. 2020, section 3.2).

    `modern`: every block begins as the identity, since what writes to the stream is zero (Zhang et al. 2019,
    Fixup); the other matrices are uniform with variance 1 / fan-in; embeddings have unit variance, the head a small
    one, so that the first predictions are nearly uniform (as in nanochat). A tied embedding is Gaussian with 0.02.

    With `mup_base` the matrices of blocks that do not shrink with their fan-in by themselves are divided by the square
    root of width / mup_base (Yang et al. 2022, table 8).

    Biases begin at zero and gains at one in all. A network built on the meta device has not begun: call this once
    memory is there.

    Each weight is drawn whole, in fp32 on the CPU, and goes from there to its device, dtype and, where the network is
    split over ranks, part: so it begins alike wherever it is computed, and no rank holds more than one weight whole.
    What a rank has let go of is drawn all the same, lest the rest begin otherwise.
    """
    for name, buffer in net.named_buffers():
        buffer.fill_(1.0 if name.endswith("variance") else 0.0)
    held = dict(net.named_parameters())
    for name, shape in net.shapes.items():
        whole = torch.empty(shape, dtype=torch.float32, device="cpu")
        _draw(name, whole, config)
        if name in held:
            put(held[name], whole)


def _draw(name: str, weight: Tensor, config: Config) -> None:
    if name.endswith("bias"):
        weight.zero_()
    elif name.endswith("norm.weight"):
        weight.fill_(1.0)
    elif name.endswith(".mix"):
        weight.copy_(torch.tensor([1.0, 0.0]))
    elif name.endswith("shift.scale"):
        weight.zero_()
    elif config.init == "modern":
        _modern(name, weight, config)
    elif config.init == "depth" and ".blocks." in name:
        layer = 1 + int(name.split(".")[2])
        _xavier(weight, layer**-0.5)
    elif config.init == "t_fixup" and not name.endswith(EMBEDDINGS):
        _xavier(weight, _t_fixup(name, config))
    else:
        weight.normal_(0.0, _std(name, weight, config))


def _std(name: str, parameter: Tensor, config: Config) -> float:
    """The standard deviation of a Gaussian weight."""
    residual = name.endswith(RESIDUAL)
    if config.init == "t_fixup":
        return float(config.width**-0.5 * (9 * config.layers) ** -0.25)
    if config.init == "fan_in":
        unscaled = name.endswith("attention.query.weight") and not config.scaled_scores
        fan_in = config.width if name.endswith("buckets.weight") else parameter.shape[-1]
        return 1.0 if name.endswith(EMBEDDINGS) else 1 / math.sqrt(fan_in * (config.channels if unscaled else 1))
    if config.init == "small":
        return 2 / (_layers(name, config) * math.sqrt(config.width)) if residual else math.sqrt(0.4 / config.width)
    std = 0.02 if config.init_std is None else config.init_std
    if config.mup_base is not None and name.startswith(INNER):
        std *= math.sqrt(config.mup_base / config.width)
    return std / math.sqrt(_writes(name, config)) if residual and config.init == "gpt2" else std


def _layers(name: str, config: Config) -> int:
    """Layers of the stack that a parameter stands in."""
    return (
        int(getattr(config, "encoder_layers", None) or config.layers) if name.startswith("encoder.") else config.layers
    )


def _writes(name: str, config: Config) -> int:
    """Matrices that write to the stream of a parameter's stack."""
    crosses = config.kind == "encoder_decoder" and not name.startswith("encoder.")
    return (3 if crosses else 2) * _layers(name, config)


def _xavier(parameter: Tensor, scale: float) -> None:
    """Uniform with variance scale^2 x 2 / (fan-in + fan-out) (Glorot & Bengio 2010)."""
    bound = scale * math.sqrt(6 / (parameter.shape[-1] + parameter.shape[-2]))
    parameter.uniform_(-bound, bound)


def _t_fixup(name: str, config: Config) -> float:
    """By what T-Fixup multiplies a matrix."""
    if ".blocks." not in name or name.endswith(("attention.query.weight", "attention.key.weight")):
        return 1.0
    layers, encodes = _layers(name, config), name.startswith("encoder.") or config.mask == "full"
    return float(0.67 * layers**-0.25 if encodes else (9 * layers) ** -0.25)


def _modern(name: str, parameter: Tensor, config: Config) -> None:
    bound = math.sqrt(3 / config.width)
    if name.endswith(RESIDUAL):
        parameter.zero_()
    elif name == "head.weight":
        parameter.normal_(0.0, 0.001)
    elif ".values." in name:
        parameter.uniform_(-bound, bound)
    elif name.endswith(EMBEDDINGS):
        parameter.normal_(0.0, 0.02 if config.tied else 1.0)
    elif name.endswith(("value_gate.weight", "shift.gate.weight", "buckets.weight")):
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
    return {name: scale for name, p in net.named_parameters() if name.startswith(INNER) and p.dim() > 1}
