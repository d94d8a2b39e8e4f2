"""Laws of the strategies: gradients are sums over ranks, whatever the micro-batches, and the same at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import together
from torch import nn

from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.core.ranks import NAMES
from groundup.strategy.config import DDP, Auto, Single

SCRIPT = Path(__file__).with_name("ranks.py")
LAYOUTS = ("1x8", "2x4", "4x2", "8x1")


def run(folder: Path, processes: int, *tasks: str) -> dict[str, list]:
    """What each rank saw, by task."""
    together(SCRIPT, folder, *tasks, processes=processes)
    ranks = range(max(1, processes))
    return {task: [torch.load(folder / f"{task}-{rank}.pt", weights_only=True) for rank in ranks] for task in tasks}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), 0, "layouts", "alone")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), 2, "layouts")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return run(tmp_path_factory.mktemp("three"), 3, "repeat")


@pytest.fixture(scope="module")
def reference():
    """The same training written out in plain torch, whole batches at once."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(2))).double()
    frozen = nn.Linear(6, 6).double()
    gradients, losses, norms = [], [], []
    for step in range(3):
        data = torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        loss = ((torch.tanh(net(data)) - frozen(data).detach()) ** 2).mean()
        found = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), found, strict=True):
                parameter -= 0.1 * gradient
        gradients.append(found)
        losses.append(loss.detach())
        norms.append(torch.cat([gradient.flatten() for gradient in found]).norm())
    weights = [parameter.detach() for parameter in (*net.parameters(), *frozen.parameters())]
    return {"gradients": gradients, "losses": losses, "norms": norms, "weights": weights}


def assert_near(found, wanted):
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], list(map(list, value)) if name == "gradients" else value, atol=1e-10, rtol=0
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process_computes_the_whole_batch_in_any_micro_batches(one, reference, layout):
    assert_near(one["layouts"][0][layout], reference)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_compute_what_one_process_does(two, reference, layout, rank):
    assert_near(two["layouts"][rank][layout], reference)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_hold_bitwise_the_same_gradients_and_weights(two, layout):
    first, second = (two["layouts"][rank][layout] for rank in (0, 1))
    for name in ("weights", "norms", "losses"):
        assert all(torch.equal(a, b) for a, b in zip(first[name], second[name], strict=True))
    for mine, theirs in zip(first["gradients"], second["gradients"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_ddp_needs_no_torchrun_for_one_process(one, reference):
    assert one["alone"][0]["world"] == 1
    assert_near(one["alone"][0]["2x4"], reference)


def test_the_first_step_after_a_start_rounds_as_every_later_one(three):
    """With three ranks the order of summation shows; were it another, a resumed run could not be bitwise the same."""
    for seen in three["repeat"]:
        first, *later = seen["gradients"]
        assert len(first) == 8
        for gradients in later:
            assert all(torch.equal(a, b) for a, b in zip(first, gradients, strict=True))


def test_the_gradient_norm_is_that_of_all_gradients_laid_end_to_end():
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(3, 4), (5,), (2, 2, 2), ()]]
    for number, parameter in enumerate(parameters[:-1]):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    strategy = Single().build("cpu", 1)
    whole = torch.cat([parameter.grad.flatten() for parameter in parameters[:-1]])
    torch.testing.assert_close(strategy.gradient_norm(parameters), whole.norm())
    assert strategy.gradient_norm(parameters[-1:]) == 0
    assert not torch.isfinite(strategy.gradient_norm([_with_gradient(float("nan"))]))
    assert strategy.gradient_norm([_with_gradient(300.0, torch.bfloat16)]) == pytest.approx(300 * 1000**0.5)


def _with_gradient(value, dtype=torch.float32):
    parameter = nn.Parameter(torch.zeros(1000, dtype=dtype))
    parameter.grad = torch.full_like(parameter, value)
    return parameter


def test_a_step_without_micro_batches_is_refused_lest_other_ranks_wait():
    with pytest.raises(ValueError, match="at least one micro-batch"):
        Single().build("cpu", 1).forward_backward([], lambda *_: torch.zeros(()))


def test_one_process_sums_over_itself():
    value = torch.arange(3.0)
    assert torch.equal(Single().build("cpu", 1).sum_over_ranks(value), value)


# Where strategies may run


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "strategy=single", "model.width=128", "name=my run"])

    def launched(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return launched


def torchrun_environment(**values):
    base = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}
    return base | values


@pytest.mark.parametrize("kind", ["single", "ddp", "auto", "fsdp"])
def test_several_devices_without_torchrun_end_with_the_exact_command(environment, kind):
    del environment
    with pytest.raises(ConfigError) as caught:
        from_dict("strategy", {"kind": kind}).build("cpu", 4)
    spread = "fsdp" if kind == "fsdp" else "ddp"
    command = f"torchrun --standalone --nproc-per-node=4 train.py strategy={spread} model.width=128 'name=my run'"
    assert str(caught.value).endswith(command)


def test_single_is_refused_as_one_of_several_processes(environment):
    environment(**torchrun_environment())
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 processes, and each would train alone"):
        Single().build("cpu", 2)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_of_torchruns_environment_is_refused(environment, name):
    environment(**{key: value for key, value in torchrun_environment().items() if key != name})
    with pytest.raises(ConfigError, match=f"^{name}: is unset though WORLD_SIZE=2; launch with torchrun"):
        DDP().build("cpu", 1)


def test_a_local_rank_outside_its_machine_is_refused(environment):
    environment(**torchrun_environment(LOCAL_WORLD_SIZE=1))
    with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE=1: must be above LOCAL_RANK=1"):
        DDP().build("cpu", 1)


def test_other_devices_than_torchrun_started_are_refused(environment):
    environment(**torchrun_environment())
    with pytest.raises(ConfigError, match="devices=3: torchrun started 2 processes on this machine; run: torchrun"):
        DDP().build("cpu", 3)


def test_ddp_on_mps_is_refused(environment):
    del environment
    with pytest.raises(ConfigError, match="no collectives on mps"):
        DDP().build("mps", 1)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has GPUs enough")
def test_more_processes_than_gpus_are_refused(environment):
    environment(**torchrun_environment())
    with pytest.raises(ConfigError, match=r"LOCAL_WORLD_SIZE=2: this machine has \d GPUs"):
        DDP().build("cuda", 2)


def test_auto_is_single_alone_and_ddp_among_several(environment):
    assert type(Auto().build("cpu", 1)).__name__ == "Single"
    environment(**torchrun_environment())
    built = Auto().build("cpu", 2)
    assert type(built).__name__ == "DDP"
    assert built.process_group_backend == "gloo"
    assert built.launcher is None
    assert (built.world_size, built.global_rank, built.local_rank) == (2, 1, 1)


def test_the_options_need_neither_torch_nor_lightning():
    code = "import sys, groundup.strategy.config; print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
