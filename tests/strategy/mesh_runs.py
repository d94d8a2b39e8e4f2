"""What the tests of meshes run, alone or as one rank of several: real trainings, one after the other."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.nn import Module

from groundup.core import ranks
from groundup.core.config import compose, option, schema
from groundup.core.layout import Grid
from groundup.model.config import Decoder
from groundup.model.parts import held, is_split, own
from groundup.strategy.mesh import sum_gradients
from groundup.strategy.mesh_config import FSDP
from groundup.strategy.meshes import mesh_of
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")


@schema("callback", "witness")
class Witness:
    """Notes the weights a run begins with, whole, and the bytes that this rank holds at its first update."""

    folder: str = option("", "where it writes", identity=False)

    def build(self) -> lightning.Callback:
        return Notes(Path(self.folder))


class Notes(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, {}

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        whole = {name: _whole(tensor) for name, tensor in module.nets.state_dict().items()}
        if ranks.rank() == 0:
            torch.save(whole, self.folder.with_suffix(".begun.pt"))
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self.note(module.nets))

    def note(self, nets: Module) -> None:
        parameters = list(nets.parameters())
        self.bytes = {"parameters": held(parameters), "gradients": held(p.grad for p in parameters)}

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        del module
        kept = [value for entry in trainer.optimizers[0].state.values() for value in entry.values() if value.dim()]
        self.bytes["optimizer"] = held(kept)
        self.folder.with_suffix(f".bytes-{ranks.rank()}.json").write_text(json.dumps(self.bytes))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if is_split(tensor) else tensor.clone()  # type: ignore[operator]


def recipe(runs: Path, name: str, overrides: list[str]) -> Train:
    """The config of a run into RUNS/NAME, with a witness where its overrides ask for one."""
    place = runs / name
    told = [f"callback.witness.folder={place}"] if any("witness" in word for word in overrides) else []
    config: Train = composed("train", *overrides, f"runs={place}", *told)
    return config


def train(runs: Path, cases: list[tuple[str, list[str]]]) -> None:
    """One run after the other in this process; a name that comes again goes on."""
    for name, overrides in cases:
        follow(recipe(runs, name, overrides))


def follow(config: Train) -> None:
    """What train.py does."""
    config.check()
    config.run()


def asked(folder: Path) -> None:
    """A cut net, asked by its methods: the largest difference from a whole one, before and after its weights change."""
    config = Decoder(layers=2, width=32, heads=4, context=16, vocabulary=61, tied=True, init="gaussian")
    torch.manual_seed(0)
    whole = config.build().double()
    with torch.device("meta"):
        net = config.build().double()
    strategy = FSDP().build("cpu", 1)
    strategy.mesh = mesh_of("cpu", Grid(data=ranks.world()), 1)
    strategy.spread(torch.nn.ModuleDict({"model": net}))
    torch.manual_seed(0)
    net.begin()
    tokens = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(ranks.rank()))
    found = {}
    for when in ("before", "after"):
        found[f"likelihoods {when}"] = [n.likelihoods(tokens, tokens)[0] for n in (net, whole)]
        found[f"decode {when}"] = [n.decode(tokens, n.new_cache(2)).detach() for n in (net, whole)]
        with torch.no_grad():
            found[f"forward {when}"] = [n(tokens) for n in (net, whole)]
            for parameter in (*net.parameters(), *whole.parameters()):
                own(parameter).mul_(2)
    for n in (net, whole):
        n.stream(tokens).square().sum().backward()
    gradient = whole.trunk.embedding.weight.grad
    torch.distributed.all_reduce(gradient)
    found["stream's gradient"] = [_whole(net.trunk.embedding.weight.grad), gradient]
    copies = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    for number, parameter in enumerate(copies):
        parameter.grad = torch.full_like(parameter, number + 1 + ranks.rank())
    sum_gradients(copies, strategy.sums_over())
    world = ranks.world()
    for number, parameter in enumerate(copies):
        wanted = world * (number + 1) + world * (world - 1) / 2
        found[f"copy {number}"] = [parameter.grad, torch.full_like(parameter, wanted)]
    if ranks.rank() == 0:
        apart = {name: float((mine - theirs).abs().max()) for name, (mine, theirs) in found.items()}
        (folder / "asked.json").write_text(json.dumps(apart))
