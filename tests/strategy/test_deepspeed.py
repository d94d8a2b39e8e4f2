"""Laws of nets that DeepSpeed cuts: every stage trains what one process does, and goes on from any other.

All in fp32, which is what DeepSpeed sums in.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent))
from mesh_runs import composed, train
from test_mesh import case, data, end, launched, rows  # noqa: F401

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed (requirements-deepspeed.txt)"
)
FP32 = "trainer.precision=fp32 callback=[checkpoint] optimizer=adamw optimizer.rate=1e-3 optimizer.weight_decay=0.1"
MODELS = ("gpt2", "experts", "t5")
THIRD = "strategy=deepspeed strategy.stage=3 strategy.whole_below=40 strategy.bucket_megabytes=0.1"
STILL = "optimizer.rate=1e-30 stop_steps=1"
SECOND = "strategy=deepspeed strategy.stage=2 strategy.bucket_megabytes=0.1"


def run(data, name, model, *more):  # noqa: F811
    name, overrides = case(data, name, model, FP32, *more, writes="")
    return name, overrides


def host(what, model):
    """Keep it in the host's memory for t5, which must change nothing."""
    return f"strategy.offload={what if model == 't5' else 'none'}"


def assert_close(found, wanted, tolerance=1e-4):
    """Losses, gradient norms, held-out text, and at the end weights and moments under the same names."""
    mine, theirs = rows(found), rows(wanted)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        assert abs(mine[key] - value) <= tolerance * abs(value), key
    mine, theirs = end(found), end(wanted)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=tolerance, rtol=0, msg=name)


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):  # noqa: F811
    """Every model trained by one process; and one that does not move."""
    runs = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(runs, [run(data, model, model, "strategy=single") for model in MODELS])
    train(runs, [run(data, "still", "gpt2", STILL, "strategy=single")])
    torch.set_num_threads(threads)
    return runs


@pytest.fixture(scope="module")
def two(data, one, tmp_path_factory):  # noqa: F811
    """Two ranks in every stage; a run that goes from stage 2 to 3 and ends in one process."""
    runs = tmp_path_factory.mktemp("two")
    cases = [run(data, "gpt2-1", "gpt2", SECOND, "strategy.stage=1 data.micro_batch=4")]
    cases += [
        run(data, f"{model}-2", model, SECOND, "data.micro_batch=4", host("optimizer", model)) for model in MODELS
    ]
    cases += [run(data, f"{model}-3", model, THIRD, "data.micro_batch=1", host("weights", model)) for model in MODELS]
    cases += [run(data, "goes", "gpt2", SECOND, "stop_steps=1"), run(data, "goes", "gpt2", THIRD, "stop_steps=2")]
    cases += [run(data, "still", "gpt2", STILL, THIRD)]
    launched(runs, 2, cases)
    train(runs, [run(data, "goes", "gpt2", "strategy=single")])
    return runs


@needs_deepspeed
@pytest.mark.parametrize("name", ["gpt2-1", *(f"{model}-{stage}" for stage in (2, 3) for model in MODELS)])
def test_every_stage_trains_what_one_process_does(two, one, name):
    """However micro-batches are cut: by two in one process, by 4 and 1 here; what is kept on the host for t5, too."""
    assert_close(two / name, one / name.partition("-")[0])


@needs_deepspeed
def test_a_run_goes_on_from_stage_two_to_three_to_one_process(two, one):
    assert_close(two / "goes", one / "gpt2")


@needs_deepspeed
def test_weights_begin_bitwise_as_in_one_process(two, one):
    """After a step so short that it moves nothing but zeros."""
    mine, theirs = end(two / "still"), end(one / "still")
    for name in [name for name in theirs if name.startswith("nets/")]:
        assert torch.equal(mine[name] * (mine[name].abs() > 1e-20), theirs[name] * (theirs[name].abs() > 1e-20)), name


@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_optimizers_of_whole_matrices_are_refused(kind):
    with pytest.raises(ConfigError, match=f"optimizer={kind}: moves whole matrices, which strategy=deepspeed joins"):
        from_dict("strategy", {"kind": "deepspeed"}).check_optimizer(kind)


def test_weights_on_the_host_need_stage_three():
    with pytest.raises(ConfigError, match="offload=weights: does not go with stage=2; set stage=3"):
        from_dict("strategy", {"kind": "deepspeed", "offload": "weights"})


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("callback=[checkpoint,ema]", "callback.ema: reads parameters"),
        ("trainer.compile=true", "strategy.stage=3: gathers weights module by module"),
    ],
)
def test_what_stage_three_leaves_no_whole_weights_for_is_refused(data, more, what):  # noqa: F811
    config = composed("train", *run(data, "", "gpt2", THIRD, more)[1])
    with pytest.raises(ConfigError, match=what):
        config.check()


def test_its_absence_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = "strategy=deepspeed: needs deepspeed, which is not installed; pip install -r requirements-deepspeed.txt"
    with pytest.raises(ConfigError, match=told):
        from_dict("strategy", {"kind": "deepspeed"}).build("cpu", 1)
