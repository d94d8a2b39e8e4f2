"""Laws of the health check and the cordon: what is wrong is found, told and kept from jobs, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundup.core import ranks
from groundup.core.files import read_lines
from groundup.launcher import config, cordon, health
from groundup.launcher.cordon import NodeError, cordoned, lift
from groundup.launcher.entry import enter
from groundup.launcher.health import Finding
from groundup.launcher.record import events
from groundup.strategy import probe

PLANTED = Path(__file__).resolve().parents[1] / "shared" / "planted"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ranks.NAMES, ranks.LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "node-a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_with_one_wrong_element_is_found_wherever_it_is(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-1, 2, shape, generator=generator).to(dtype) for shape in ((40, 32), (32, 50)))
    product = left @ right
    assert probe.right(left, right, product, generator)
    for value in (1.0, -1.0, float("nan"), float("inf")):
        for row, column in torch.randint(0, 40, (20, 2), generator=generator).tolist():
            wrong = product.clone()
            wrong[row, column] += value
            assert not probe.right(left, right, wrong, generator)


def test_a_machine_that_computes_wrong_is_cordoned_and_then_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{PLANTED}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    options = config.Here(health=True)
    with pytest.raises(NodeError, match=r"node-a: is not fit and now cordoned \(device 0 \(cpu\) computes wrong prod"):
        enter(options, tmp_path / "run", tmp_path)
    assert "product  FAULT" in capsys.readouterr().out
    assert "wrong products in fp32" in cordoned(tmp_path)["node-a"]
    with pytest.raises(NodeError, match=r"node-a: is cordoned since .*; once it is mended: python -m"):
        enter(config.Here(), tmp_path / "run", tmp_path)
    assert [line["node"] for line in events(tmp_path / "run" / "logs", "unfit")] == ["node-a", "node-a"]
    assert lift(tmp_path, "node-a") and not lift(tmp_path, "node-a")
    enter(config.Here(), tmp_path / "run", tmp_path)


def test_a_sound_machine_is_fit_by_the_command_too(tmp_path) -> None:
    line = [sys.executable, "-m", "groundup.launcher.health", f"--folder={tmp_path}", "--devices=1"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.split()[:2] for row in done.stdout.splitlines()[:2]] == [["memory", "ok"], ["disk", "ok"]]
    assert done.stdout.splitlines()[-1].startswith("product  ok     device 0 right")
    assert read_lines(tmp_path / health.FILE) == []  # a CPU's speed is not judged


def test_a_place_that_cannot_be_written_is_a_fault(tmp_path) -> None:
    (tmp_path / "file").touch()
    found = health.disk(tmp_path / "file" / "below")
    assert found.fault is not None and "cannot be written" in found.fault
    assert not found.of_node  # so that a shared disk that is full does not cordon all nodes


def test_a_rate_is_held_against_the_median_of_the_same_device() -> None:
    def line(rate: float, device: str = "H100") -> dict[str, object]:
        return {"device": device, "rates": {"flops bf16": rate}}

    slow, usual = (Finding("product", None, "", {"flops bf16": rate}, "H100") for rate in (40.0, 60.0))
    earlier = [line(100.0), line(90.0), line(110.0), line(1.0, "A100")]
    assert health.slower(slow, earlier) == "flops bf16 at 40/s, 40% of the 100/s usual for H100"
    assert health.slower(usual, earlier) is None
    assert health.slower(slow, earlier[:2]) is None  # two are no measure


def test_of_lines_about_a_node_the_last_holds_and_a_broken_one_is_left_out(tmp_path) -> None:
    cordon.cordon(tmp_path, "a", "one")
    cordon.cordon(tmp_path, "b", "two")
    cordon.cordon(tmp_path, "a", "three")
    with (tmp_path / cordon.FILE).open("a") as file:
        file.write('{"node": "c", "cord')
    assert {node: why.split(": ")[1] for node, why in cordoned(tmp_path).items()} == {"b": "two", "a": "three"}


def test_the_list_is_looked_at_and_changed_by_command(tmp_path, capsys) -> None:
    where = f"--folder={tmp_path}"
    assert cordon.main(["add", "b", "it smokes", where]) == 0
    assert cordon.main(["free", "a", "b", "c", where]) == 0
    assert capsys.readouterr().out == "a\nc\n"
    assert cordon.main(["list", where]) == 0
    assert capsys.readouterr().out.endswith(": it smokes\n")
    assert cordon.main(["lift", "b", where]) == 0
    assert cordon.main(["lift", "b", where]) == 1
    assert cordoned(tmp_path) == {}
