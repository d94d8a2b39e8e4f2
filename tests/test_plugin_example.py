"""The worked example of a user's own package: it trains from the command line, and its parts keep the house's laws."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from groundup.core.config import groups
from groundup.core.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
KINDS = {"model": "ngram", "objective": "focal", "schedule": "inverse_root"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user with the example on PYTHONPATH would."""
    places = [str(EXAMPLE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the root's programs."""
    return python(str(ROOT / program), *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two steps with the example's model, objective and schedule, on a small real corpus."""
    folder = tmp_path_factory.mktemp("plugin")
    made = run("prepare.py", "source=[topics]", "tokenizer.vocabulary=600", f"path={folder / 'data'}")
    assert made.returncode == 0, made.stderr
    trained = run(
        "train.py",
        "plugins=[my_parts]",
        *(f"{group}={kind}" for group, kind in KINDS.items()),
        "model.width=16",
        "model.hidden=32",
        "schedule.warmup=1",
        "tokens=512",
        f"data.path={folder / 'data'}",
        "data.context=32",
        "data.batch_tokens=256",
        "data.micro_batch=4",
        "data.held_out_tokens=1024",
        "trainer.accelerator=cpu",
        "trainer.compile=false",
        "trainer.log_every=1",
        "callback=[checkpoint,ema]",
        f"runs={folder / 'runs'}",
        "name=parts",
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    (made_run,) = (folder / "runs" / "parts").iterdir()
    return made_run


def test_the_example_trains_through_the_command_line(finished: Path) -> None:
    assert json.loads((finished / "model.json").read_text())["model"]["kind"] == "ngram"
    with (finished / "metrics.csv").open() as file:
        rows = {(int(row["step"]), row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    assert {step for step, name in rows if name == "train/nll"} == {1, 2}
    assert rows[1, "train/nll"] == pytest.approx(math.log(600), rel=0.2)  # an untrained net knows nothing
    assert rows[1, "train/loss"] < rows[1, "train/nll"]
    assert rows[2, "train/rate"] == pytest.approx(rows[1, "train/rate"] / math.sqrt(2))


def test_the_trained_example_is_loaded_once_its_package_is_imported(finished: Path) -> None:
    code = f"import my_parts; from groundup.model.load import load; print(load({str(finished)!r}).config.kind)"
    done = python("-c", code)
    assert done.stdout.strip() == "ngram", done.stderr


def test_help_names_the_example_and_explains_its_keys() -> None:
    page = run("train.py", "plugins=[my_parts]", "--help")
    assert page.returncode == 0, page.stderr
    for kind in KINDS.values():
        assert kind in page.stdout
    keys = run("train.py", "plugins=[my_parts]", "--help", "schedule")
    assert "warmup = 100: steps until the peak rate is reached" in keys.stdout


def test_a_value_out_of_the_examples_bounds_is_refused_in_one_line() -> None:
    refused = run("train.py", "plugins=[my_parts]", "model=ngram", "model.order=0")
    assert refused.returncode == 2
    assert refused.stderr.strip() == "error: model.order=0: must be at least 1; set it at least 1"


def test_a_package_that_is_not_there_is_named() -> None:
    refused = run("train.py", "plugins=[no_such_parts]")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: plugins=no_such_parts: cannot be imported")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's options, registered for one test."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("my_parts.config")
    for group, kind in KINDS.items():
        groups()[group].kinds.pop(kind)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


def small_net(parts: ModuleType) -> tuple[Any, Any]:
    config = parts.Ngram(order=3, width=8, hidden=16, context=12, vocabulary=40)
    torch.manual_seed(0)
    return config, config.build()


def test_the_net_sees_the_last_tokens_and_no_others(parts: ModuleType) -> None:
    _, net = small_net(parts)
    tokens = torch.randint(0, 40, (1, 12))
    changed = tokens.clone()
    changed[0, 4] = (tokens[0, 4] + 1) % 40
    moved = (net(tokens) != net(changed)).any(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == [4, 5, 6]


def test_the_net_does_not_look_into_another_document(parts: ModuleType) -> None:
    _, net = small_net(parts)
    tokens, documents = torch.randint(0, 40, (1, 12)), torch.tensor([[0] * 5 + [1] * 7])
    alone = net(tokens[:, 5:])
    assert torch.allclose(net(tokens, documents_BT=documents)[:, 5:], alone, atol=1e-6)
    assert not torch.allclose(net(tokens)[:, 5:], alone, atol=1e-3)


def test_the_nets_parameters_are_those_counted(parts: ModuleType) -> None:
    config, net = small_net(parts)
    assert sum(p.numel() for p in net.parameters()) == config.parameters()["total"]
    assert config.flops_per_token() == 6 * (config.parameters()["total"] - net.embedding.weight.numel())


def test_the_likelihoods_are_those_of_the_logits_and_zero_where_there_is_no_target(parts: ModuleType) -> None:
    _, net = small_net(parts)
    tokens, targets = torch.randint(0, 40, (2, 12)), torch.randint(0, 40, (2, 12))
    targets[0, :6] = -100
    nll = net(tokens, targets)
    wanted = -net(tokens).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    assert torch.equal(nll[0, :6], torch.zeros(6))
    assert torch.allclose(nll[targets >= 0], wanted[targets >= 0], atol=1e-6)


def test_the_schedule_is_highest_at_the_end_of_its_warm_up(parts: ModuleType) -> None:
    schedule, total = parts.InverseRoot(warmup=10), Progress(100, 100, 100)
    factors = [schedule.factor(Progress(step, step, step), total) for step in range(1, 101)]
    assert max(factors) == factors[9] == 1.0
    assert factors[39] == pytest.approx(0.5)
    assert min(factors) > 0


def test_the_focal_loss_is_the_papers_and_leaves_masked_places_out(parts: ModuleType, tmp_path: Path) -> None:
    objective_base = importlib.import_module("groundup.objective.base")
    objective = importlib.import_module("my_parts.objective")
    setting = objective_base.Setting(seed=0, first=Progress(), total=Progress(), folder=tmp_path)
    module = objective.Focal(parts.Focal(gamma=2.0), {}, None, None, setting)
    nll = torch.tensor([[0.5, 2.0, 0.0]], requires_grad=True)
    total, sums = module.loss(nll, None)
    wanted = sum((1 - math.exp(-n)) ** 2 * n for n in (0.5, 2.0))
    assert total.item() == pytest.approx(wanted)
    assert sums["nll"].item() == pytest.approx(2.5)
    (gradient,) = torch.autograd.grad(total, nll)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2] == 0
