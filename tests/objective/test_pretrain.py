"""Losses are sums over targets, so that how a step is cut into micro-batches does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.data.step import IGNORED, Batch
from groundup.model.config import Decoder
from groundup.objective.base import Setting
from groundup.objective.config import Prefix, Pretrain

SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "context": 16, "vocabulary": 61, "init": "gpt2"}
MODELS = {"dense": {}, "experts": {"experts": 4, "activation": "swiglu"}}


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads."""


def objective(config: Any, tmp_path: Path, **model: Any) -> Any:
    end = Progress(1, 8, 128)
    setting = Setting(seed=0, first=Progress(), total=end, folder=tmp_path)
    module = config.build(Decoder(**{**SHAPE, **model}), None, None, setting)
    module.configure_model()
    return module.double()


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(0, 61, (2, 8, 16), generator=draw).unbind()
    targets[torch.rand(8, 16, generator=draw) < 0.3] = IGNORED
    targets[5] = IGNORED  # a row of padding counts for nothing
    return Batch(tokens, targets)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_loss_of_a_step_is_the_sum_of_its_micro_batches(kind: str, rows: int, tmp_path: Path) -> None:
    module, whole = objective(Pretrain(z_loss=1e-3), tmp_path, **MODELS[kind]), batch()
    total, metrics = module.loss(module(whole), whole)
    assert set(metrics) == {"nll", "z_loss", *(("balance", "router_z") if kind == "experts" else ())}
    summed, parts = 0.0, dict.fromkeys(metrics, 0.0)
    for start in range(0, 8, rows):
        part = Batch(whole.tokens_BT[start : start + rows], whole.targets_BT[start : start + rows])
        loss, found = module.loss(module(part), part)
        summed += float(loss.detach())
        parts = {name: parts[name] + float(value.detach()) for name, value in found.items()}
    assert summed == pytest.approx(float(total.detach()), rel=1e-6)
    for name, value in metrics.items():
        assert parts[name] == pytest.approx(float(value.detach()), rel=1e-6), name


def test_an_even_router_costs_its_weight_once_for_each_target(tmp_path: Path) -> None:
    module, whole = objective(Pretrain(balance=0.5, router_z=0.0), tmp_path, **MODELS["experts"]), batch()
    with torch.no_grad():
        for block in module.nets["model"].trunk.blocks.values():
            block.feedforward.router.weight.zero_()
    total, metrics = module.loss(module(whole), whole)
    targets = int((whole.targets_BT >= 0).sum())
    assert float(metrics["balance"].detach()) == pytest.approx(targets, rel=1e-6)
    assert float((total - metrics["nll"]).detach()) == pytest.approx(0.5 * targets, rel=1e-5)


def test_objectives_and_masks_must_belong_together() -> None:
    with pytest.raises(ConfigError, match=r"model\.mask=prefix: is not what objective=pretrain trains"):
        Pretrain().check(Decoder(mask="prefix"))
    with pytest.raises(ConfigError, match=r"objective=prefix: trains a network that sees ahead"):
        from_dict("objective", {"kind": "prefix"}).check(Decoder())
    Prefix().check(Decoder(mask="prefix"))
