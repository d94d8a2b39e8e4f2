"""The GPU's benchmark on machines without one: it says so, tries itself on a CPU, and needs torch alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
WITHOUT = ("hydra", "omegaconf", "lightning", "safetensors", "sentencepiece", "tokenizers", "yaml", "transformers")


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_succeeds() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("there is no GPU here")
    assert done.stdout.count("\n") == 1


def test_on_a_machine_with_torch_alone_it_measures_ours_and_names_the_absent_peer(tmp_path: Path) -> None:
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in WITHOUT if name != "transformers")
    finder = "import importlib.util as u\nfind = u.find_spec\n"
    finder += "u.find_spec = lambda name, package=None: None if name == 'transformers' else find(name, package)\n"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}{finder}")
    record = tmp_path / "gpu.md"
    done = run("--device", "cpu", "--tiny", "--records", str(record), path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    formula, *lines = done.stdout.splitlines()
    assert formula.startswith("MFU = ")
    ours, peer = map(json.loads, lines)
    assert ours["system"] == "groundup" and ours["tokens_per_second"] > 0 and 0 < ours["matrix_share"] < 1
    assert 3 < ours["loss"] < 8
    assert peer["skipped"] == "transformers is not installed"
    assert not record.exists(), "only a GPU's figures are recorded"


def test_every_preset_measured_is_there_with_the_size_its_name_says() -> None:
    code = (
        "import json, sys; sys.path.insert(0, 'benchmarks'); import gpu; from groundup.model import count\n"
        "print(json.dumps({size: count.parameters(gpu.shape(size, False))['total'] for size in gpu.SIZES}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for size, expected in {"gpt2-124m": 124e6, "350m": 350e6, "1b": 1.3e9}.items():
        assert 0.85 < found[size] / expected < 1.25, f"{size} has {found[size]} parameters"
