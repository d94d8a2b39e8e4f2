"""Every bad input is one line that names it and the remedy, exit code 2, and leaves everything as it was."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bad_inputs", Path(__file__).with_name("bad_inputs.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_inputs"] = module
    spec.loader.exec_module(module)
    return module


bad_inputs = _load()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> bad_inputs.World:
    return bad_inputs.make(tmp_path_factory.mktemp("world"))


def told(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error."""
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_bad_input_is_told_in_one_line_and_harms_nothing(
    case: bad_inputs.Case, world: bad_inputs.World, tmp_path: Path
) -> None:
    mine = bad_inputs.fresh_copy(world, tmp_path / "mine")
    case.spoil(mine)
    before = bad_inputs.tree(mine.place)
    line = told(bad_inputs.call(mine, case.verb, case.arguments, plain=case.plain))
    for piece in case.says:
        assert piece in line
    assert bad_inputs.tree(mine.place) == before


def mounted(place: Path, options: str) -> Path:
    """A small file system of its own, or a skip where this process may not mount one."""
    place.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("mounting needs root")
    return place


def test_a_full_disk_is_told_before_work_starts(world: bad_inputs.World, tmp_path: Path) -> None:
    disk = mounted(tmp_path / "disk", "size=64k")
    try:
        line = told(bad_inputs.call(world, "train.py", [*bad_inputs.train(), f"runs={disk}"]))
        assert str(disk) in line
        assert "free" in line
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_mount_is_told_before_work_starts(world: bad_inputs.World, tmp_path: Path) -> None:
    disk = mounted(tmp_path / "disk", "size=8m,ro")
    try:
        for verb, arguments in (
            ("train.py", [*bad_inputs.train(), f"runs={disk}"]),
            ("prepare.py", ["source=[topics]", f"path={disk}/data"]),
        ):
            line = told(bad_inputs.call(world, verb, arguments))
            assert str(disk) in line
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_damaged_newest_checkpoint_is_told_of_and_the_run_goes_on_from_the_one_before(
    world: bad_inputs.World, tmp_path: Path
) -> None:
    mine = bad_inputs.fresh_copy(world, tmp_path / "mine")
    newest = max((mine.run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    file = next(newest.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    result = bad_inputs.call(mine, "train.py", bad_inputs.train())
    assert result.returncode == 0, result.stderr
    assert "falling back to an older checkpoint" in result.stdout
    assert newest.name in result.stdout
