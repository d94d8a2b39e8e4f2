"""Tensor parallelism: how the matrices of a net are cut over ranks, by the names of its parameters.

The model knows nothing of it. By Shoeybi et al. (2019, Megatron-LM), attention is cut by whole heads and feed-forwards
by hidden channels: the first matrices of each by columns and the last by rows, so that ranks meet once behind each.
Embedding and head are cut by ids. With sequence parallelism (Korthikanti et al. 2022) what stands between is cut by
positions. Names and whole shapes of parameters stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from groundup.core.errors import ConfigError
from groundup.model import attention, block, cross, experts, feedforward, head, part, trunk
from groundup.model.positions import Relative
from groundup.strategy import layers, vocabulary
from groundup.strategy.cutting import check
from groundup.strategy.part import Adds, Part, Ranks, Share

if TYPE_CHECKING:
    from groundup.model.net import Net
    from groundup.model.options import Transformer as Config

CUT: dict[type[nn.Module], type[Part]] = {
    trunk.Trunk: layers.Trunk,
    part.Part: layers.Stretches,
    block.Block: layers.Block,
    attention.Attention: layers.Attention,
    cross.CrossAttention: layers.CrossAttention,
    feedforward.FeedForward: layers.FeedForward,
    experts.Experts: layers.Experts,
    head.Head: vocabulary.Head,
}
"""What a module becomes."""


def spread(net: Net, mesh: DeviceMesh, sequence: bool) -> None:
    """Cut a net over ranks, in place: its parameters become DTensors under their names, and its passes parallel.

    Every rank must have built the same net, and must then be given the same tokens and the same state of torch's
    generator; each returns what the whole net would. Gradients are whole, laid out as their parameters. `decode`,
    `step` and `likelihoods` work too, on all ranks together. `fully_shard` of blocks and of the net may follow, in
    another dimension of the same mesh.

    Args:
        net: on the mesh's kind of device, or it is moved there; it may have been cut to some stretches of its layers.
        mesh: the ranks, in one dimension.
        sequence: cut the stream between attentions and feed-forwards by positions; where these do not divide by the
            ranks, and in generation, it stays whole, at the price of memory alone.

    Raises:
        ConfigError: as `check`, or a parameter has a name for which there is no plan.
    """
    check(net.config, mesh.size())
    ranks = Ranks(mesh, sequence)
    for module in list(net.modules()):
        if type(module) in CUT:
            _become(module, CUT[type(module)], ranks)
        if isinstance(module, attention.Heads):
            module.heads, module.groups = module.heads // ranks.count, max(1, module.groups // ranks.count)
        if isinstance(module, Relative):
            module.heads //= ranks.count
    if hasattr(net.trunk, "embedding"):  # a stretch of layers may have none
        _become(net.trunk.embedding, vocabulary.Embedding, ranks)
    shares = plan(net.config, ranks.number, ranks.count)
    for name, parameter in list(net.named_parameters()):
        share = share_of(name, shares)
        placement = Replicate() if share.cut is None else Shard(parameter.dim() + share.cut)
        laid = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
        path, _, leaf = name.rpartition(".")
        owner = net.get_submodule(path)
        owner.register_parameter(leaf, nn.Parameter(laid, requires_grad=parameter.requires_grad))
        _reader(net, path).reads.append((owner, leaf, share))


def plan(config: Config, rank: int, ranks: int) -> list[tuple[str, Share]]:
    """How parameters are shared, by patterns of their whole names, of which the first that fits holds.

    Dimensions count from the last, so that a matrix's outputs are -2 and its inputs -1, alone or in a bank of experts.
    """
    grouped, apart = _grouped(config, rank, ranks), Share()
    by_position, by_head, once = Share(adds=Adds.SLICED), Share(adds=Adds.ALWAYS), Share(adds=Adds.ALWAYS, once=True)
    return [
        (r"trunk\.embedding\.weight|head\.weight", Share(cut=-2)),
        (r"head\.bias", Share(cut=-1)),
        (r"head\.transform(_norm)?\..*", by_head),
        (r".*attention\.query\.weight|.*\.relative\.project\.weight", Share(cut=-2)),
        (r".*attention\.query\.bias|.*\.relative\.(content|position)_bias|.*\.buckets\.weight", Share(cut=-1)),
        (r".*attention\.(key|value)\.weight", grouped(-2, config.channels)),
        (r".*attention\.(key|value)\.bias|.*\.values\.\d+\.weight", grouped(-1, config.channels)),
        (r".*\.value_gate\.weight", grouped(-2, 1)),
        (r".*attention\.(query|key)_norm\..*", by_head),
        (r".*\.feedforward\.(up|gate)\.weight", Share(cut=-2)),
        (r".*\.feedforward\.(up|gate)\.bias", Share(cut=-1)),
        (r".*(attention\.output|\.feedforward\.down)\.weight", Share(cut=-1)),
        (r".*(attention\.output|\.feedforward\.down)\.bias", once),
        (r".*\.feedforward\.router\.weight", by_head),
        (r".*\.blocks\.\d+\.(mix|\w+_norm\..*)", by_position),
        (r"(trunk|encoder)\.(norm\..*|project_out\.weight)", by_position),
        (r"(trunk|encoder)\.(positions|segments|embedding_norm|project_in|shift)\..*", apart),
    ]


def share_of(name: str, shares: list[tuple[str, Share]]) -> Share:
    """How a parameter is shared.

    Raises:
        ConfigError: there is no plan for its name.
    """
    for pattern, share in shares:
        if re.fullmatch(pattern, name):
            return share
    raise ConfigError("strategy.tensor", f"has no plan for the parameter {name}", "leave it at 1")


def _grouped(config: Config, rank: int, ranks: int) -> Callable[[int, int], Share]:
    """How a dimension is shared that has so many numbers for each group of keys and values."""

    def share(dimension: int, each: int) -> Share:
        if config.groups % ranks == 0:
            return Share(cut=dimension)
        group = rank * config.groups // ranks
        return Share(adds=Adds.ALWAYS, read=(dimension, group * each, each))

    return share


def _become(module: nn.Module, kind: type[Part], ranks: Ranks) -> None:
    """Change a module's class to one that adds to it; what it holds, and who holds it, stays."""
    module.__class__ = kind
    assert isinstance(module, Part)
    module.ranks, module.reads = ranks, []


def _reader(net: nn.Module, path: str) -> Part:
    """The nearest part at or above a module."""
    while not isinstance(found := net.get_submodule(path), Part):
        path = path.rpartition(".")[0]
    return found
