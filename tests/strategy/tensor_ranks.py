"""What the tests of tensor parallelism run under torchrun: each process compares a net that is spread with the whole.

torchrun ... tensor_ranks.py FOLDER TASK...
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the kinds
from groundup.strategy.tensor import spread

SHAPE = {"layers": 2, "width": 16, "heads": 4, "hidden": 24, "context": 16, "vocabulary": 101, "init": "gpt2"}
PLAIN = {"qk_norm": False, "embedding_norm": False}
LAYER = PLAIN | {"norm": "layer", "gain": True, "bias": True}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": LAYER | {"positions": "learned", "activation": "gelu_tanh", "tied": True},
    "neox": LAYER | {"parallel": "two_norms", "rope_share": 0.5, "activation": "gelu"},
    "gptj": LAYER | {"parallel": "one_norm", "activation": "gelu", "attention_bias": False, "head_bias": True},
    "llama": PLAIN | {"gain": True, "kv_heads": 2, "activation": "swiglu"},
    "palm": PLAIN | {"gain": True, "kv_heads": 1, "activation": "swiglu", "tied": True, "scaled_logits": True},
    "nano": {"mixing": True, "value_embeddings": True, "shift": True, "softcap": 3.0},
    "narrow": {"gain": True, "kv_heads": 1, "attention_bias": True, "value_embeddings": True},
    "bloom": LAYER | {"positions": "alibi", "embedding_norm": True, "tied": True},
    "gopher": PLAIN | {"gain": True, "positions": "transformer_xl", "mask": "prefix"},
    "mistral": PLAIN | {"gain": True, "sliding_window": 3, "sliding_every": 2, "activation": "swiglu"},
    "opt": LAYER | {"embedding_width": 8, "norm_place": "post", "positions": "sinusoidal", "tied": True},
    "experts": PLAIN | {"gain": True, "experts": 4, "experts_every": 2, "activation": "swiglu"},
    "t5": PLAIN
    | {"kind": "encoder_decoder", "positions": "t5", "gain": True, "scaled_scores": False, "activation": "geglu_tanh"},
    "bart": LAYER | {"kind": "encoder_decoder", "positions": "learned", "norm_place": "post", "encoder_layers": 1},
    "switch": {"kind": "encoder_decoder", "experts": 4, "positions": "none", "gain": True},
    "bert": LAYER
    | {
        "kind": "encoder",
        "positions": "learned",
        "segments": 2,
        "norm_place": "post",
        "head_transform": True,
        "head_bias": True,
        "tied": True,
    },
}
"""Options by what they are like."""

UNDIVIDED = ("nano", "experts", "t5")
"""Those that are also tried in windows of which no rank could have an equal slice."""


def build(case: str, **otherwise: Any) -> Any:
    """A net in float64, the same wherever it is built, in which nothing is zero or one."""
    net = from_dict("model", {"kind": "decoder"} | SHAPE | CASES[case] | otherwise).build().double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.dim() == 1))
    return net


def shown(net: Any, length: int) -> dict[str, Any]:
    """A micro-batch for a net: some positions without targets, two documents in each row, and what its kind reads."""
    generator = torch.Generator().manual_seed(length)
    draw = lambda high, size: torch.randint(high, (3, size), generator=generator)  # noqa: E731
    tokens, targets = draw(101, length), draw(101, length)
    targets[draw(4, length) == 0] = -100
    documents = (torch.arange(length) >= 5).long().expand(3, length)
    found = {"tokens_BT": tokens, "targets_BT": targets, "documents_BT": documents, "with_log_z": True}
    if net.reads_source:
        source = {"source_BS": draw(101, 12), "source_documents_BS": (torch.arange(12) >= 7).long().expand(3, 12)}
        return found | source | {"with_routing": net.routes}
    if net.config.mask == "prefix":
        found["prefix_BT"] = torch.arange(length).expand(3, length) % 5 < 2
    if net.config.segments:
        found["segments_BT"] = draw(2, length)
    return found | {"with_routing": net.routes}


def loss(found: Any, targets_BT: Tensor) -> Tensor:
    """A number that weighs every likelihood, normaliser and routing differently."""
    nll, log_z, *routing = found
    weights = torch.linspace(0.5, 1.5, nll.numel(), dtype=torch.float64).view_as(nll)
    total = (weights * nll).sum() + 0.1 * (weights.flip(0) * log_z**2)[targets_BT >= 0].sum()
    return total + sum((uneven * weights[:, :2]).sum() for uneven in routing)


def pass_through(net: Any, length: int) -> dict[str, Tensor]:
    """All that a forward and a backward pass say, by name, whole."""
    batch = shown(net, length)
    logits = net(**{name: value for name, value in batch.items() if name not in ("targets_BT", "with_log_z")})
    logits = logits[0] if isinstance(logits, tuple) else logits
    net.zero_grad()
    found = net(**batch)
    loss(found, batch["targets_BT"]).backward()
    said = {f"output {number}": value.detach() for number, value in enumerate(found)} | {"logits": logits.detach()}
    return said | {name: whole(parameter.grad) for name, parameter in net.named_parameters()}


def whole(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(())
    if isinstance(gradient, DTensor):
        assert not any(placement.is_partial() for placement in gradient.placements)
        return gradient.full_tensor()
    return gradient


def farthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference by name, in units of the largest number of each."""
    assert found.keys() == wanted.keys()
    return {
        name: float((found[name] - wanted[name]).abs().max() / wanted[name].abs().max().clamp(min=1e-3))
        for name in wanted
    }


def nets(cases: tuple[str, ...] = tuple(CASES)) -> dict[str, Any]:
    """With and without sequence parallelism, and in windows that do not divide by the ranks."""
    mesh, found = tensor_mesh(), {}
    for case in cases:
        wanted = pass_through(build(case), 16)
        for sequence in (False, True):
            net = build(case)
            shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
            spread(net, mesh, sequence)
            assert {name: parameter.shape for name, parameter in net.named_parameters()} == shapes
            assert all(isinstance(parameter, DTensor) for parameter in net.parameters())
            widths, lengths = _watched(net)
            found[f"{case} sequence={sequence}"] = farthest(pass_through(net, 16), wanted)
            assert max(widths) <= -(-101 // mesh.size()), "a rank has made more logits than those of its ids"
            if net.trunk.norm is not None:
                assert set(lengths) == {16 // mesh.size() if sequence else 16}, "the stream is not cut as asked for"
            for name, parameter in net.named_parameters():
                assert parameter.grad is None or parameter.grad.placements == parameter.placements, name
        if case in UNDIVIDED:
            found[f"{case} undivided"] = farthest(pass_through(net, 15), pass_through(build(case), 15))
    return found


def _watched(net: Any) -> tuple[list[int], list[int]]:
    """How many logits a position has on this rank, and positions a norm sees, filled in as the net is used."""
    widths: list[int] = []
    lengths: list[int] = []
    net.head.softmax.register_forward_hook(lambda module, given, made: widths.append(made[3].shape[1]))
    if net.trunk.norm is not None:
        net.trunk.norm.register_forward_hook(lambda module, given, made: lengths.append(made.shape[1]))
    return widths, lengths


def four() -> dict[str, Any]:
    """Cut over four ranks; some have fewer groups than that."""
    return nets(("llama", "narrow", "experts", "t5"))


def noise() -> dict[str, Any]:
    """Dropout of the embedding and of every sum, from the same seed."""
    mesh, found = tensor_mesh(), {}
    for case in ("gpt2", "t5", "experts"):
        noisy = {"dropout": 0.3, "attention_dropout": 0.0}
        wanted = pass_through(build(case, **noisy), 16)
        for sequence in (False, True):
            net = build(case, **noisy)
            spread(net, mesh, sequence)
            found[f"{case} sequence={sequence}"] = farthest(pass_through(net, 16), wanted)
    return found


def generation() -> dict[str, Any]:
    """What nets say in generation, and of the likelihoods of further text, where training cuts the stream."""
    found = {}
    for case in ("nano", "narrow", "llama", "bloom", "gopher", "opt", "experts", "t5"):
        net = build(case).eval()
        wanted = generated(net)
        spread(net, tensor_mesh(), sequence=True)
        found[case] = farthest(generated(net), wanted)
    return found


@torch.no_grad()
def generated(net: Any) -> dict[str, Tensor]:
    """Logits behind prompts of unequal length, behind a further token, and behind another, and likelihoods."""
    tokens, counts = shown(net, 16)["tokens_BT"], torch.tensor([7, 4, 6])
    cache = net.new_cache(3)
    source = ()
    if net.reads_source:
        source = (shown(net, 16)["source_BS"], torch.tensor([5, 12, 8]))
        net.read(source[0], cache, source[1])
    said = {"prompt": net.decode(tokens[:, :7], cache, counts), "next": net.decode(tokens[:, 7:8], cache)}
    said["step"] = net.step(tokens[:, 8], cache)
    nll, greedy = net.likelihoods(tokens, shown(net, 16)["targets_BT"], *source)
    return said | {"likelihoods": nll, "greedy": greedy.double()}


def saved() -> dict[str, Any]:
    """A checkpoint of each of some nets, cut over these ranks; and one that a whole net wrote, read onto them."""
    folder = Path(sys.argv[1])
    same = {}
    for case in ("nano", "narrow", "experts", "t5"):
        net = build(case)
        wanted = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        spread(net, tensor_mesh(), sequence=True)
        checkpoint.save(net.state_dict(), checkpoint_id=folder / case)
        state = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
        checkpoint.load(state, checkpoint_id=folder / case)
        same[case] = all(torch.equal(whole(state[name]), wanted[name]) for name in wanted)
    return same


def grid() -> dict[str, Any]:
    """Rows over two ranks by fully_shard, matrices over two: gradients and values are whole again."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    row = mesh["data"].get_local_rank()
    found = {}
    for case in ("nano", "narrow", "experts", "t5"):
        one = build(case)
        batch = shown(one, 16)
        mine = [
            {name: value[rows] if isinstance(value, Tensor) else value for name, value in batch.items()}
            for rows in (slice(0, 2), slice(2, 3))
        ]
        for half in mine:
            loss(one(**half), half["targets_BT"]).backward()
        wanted = {name: whole(parameter.grad) for name, parameter in one.named_parameters()}
        net = build(case)
        spread(net, mesh["tensor"], sequence=True)
        for stack in (part for part in net.children() if hasattr(part, "blocks")):
            for block in stack.blocks.values():
                fully_shard(block, mesh=mesh["data"])
        fully_shard(net, mesh=mesh["data"])
        values = {f"value {name}": tensor.full_tensor() for name, tensor in net.state_dict().items()}
        said = net(**mine[row])
        loss(said, mine[row]["targets_BT"]).backward()
        # fully_shard takes the mean over the two
        gradients = {name: 2 * whole(parameter.grad) for name, parameter in net.named_parameters()}
        wanted |= {f"value {name}": tensor for name, tensor in one.state_dict().items()}
        found[case] = farthest(gradients | values, wanted)
        checkpoint.save(net.state_dict(), checkpoint_id=Path(sys.argv[1]) / f"grid-{case}")
    return found


def tensor_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (distributed.get_world_size(),))


if __name__ == "__main__":
    folder, *tasks = sys.argv[1:]
    warnings.simplefilter("error")
    distributed.init_process_group("gloo")
    for task in tasks:
        result = globals()[task]()
        torch.save(result, Path(folder) / f"{task}-{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
