"""A folder is found, or refused in one line, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from groundup.core.errors import CheckpointError
from groundup.model import load
from groundup.trainer import segments
from groundup.trainer.find import MODEL, find


def test_a_model_is_known_by_the_file_that_loading_reads() -> None:
    assert MODEL == load.CONFIG


def test_looking_imports_no_torch() -> None:
    code = "import sys, groundup.verb.evaluate, groundup.trainer.find; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_folder_stands_for_itself_or_the_only_run_in_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none: is not a folder; train a model first"):
        find(str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="holds no model"):
        find(str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / segments.FILE).touch()
        assert find(str(tmp_path / name)) == tmp_path / name
        if name == "a":
            assert find(str(tmp_path)) == tmp_path / "a"
    with pytest.raises(CheckpointError, match="holds 2 runs: a, b; name one of them"):
        find(str(tmp_path))
    for file in (MODEL, "state.json"):
        (tmp_path / file).touch()
        assert find(str(tmp_path)) == tmp_path
        (tmp_path / file).unlink()
