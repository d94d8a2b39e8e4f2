"""Small networks and real questions for the tests of evaluation."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from groundup.core.config import from_dict
from groundup.model import config as _  # noqa: F401  # registers the decoder
from groundup.tokenizer.byte import Bytes

SMALL = {"kind": "decoder", "layers": 2, "width": 32, "heads": 4, "context": 256, "vocabulary": 257}


def benchmarks() -> ModuleType:
    """The module that lays public benchmarks out, shared with the proof."""
    if "evaluation_benchmarks" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "evaluation_benchmarks", Path(__file__).with_name("benchmarks_data.py")
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules["evaluation_benchmarks"]


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads."""


@pytest.fixture
def tokenizer() -> Bytes:
    """Bytes as ids."""
    return Bytes()


@pytest.fixture
def build() -> Callable[..., Any]:
    """A small decoder in eval mode whose weights are all drawn at random."""

    def make(**options: Any) -> Any:
        torch.manual_seed(0)
        net = from_dict("model", {**SMALL, **options}).build().eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return net

    return make


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local data for lm-eval's own tasks, made of public benchmarks; skips where they are absent."""
    module = benchmarks()
    if module.SOURCE is None:
        reason = "the public benchmarks are not at shared/data/eval"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("public")
    module.lay_out(folder, 40)
    return folder


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """The JSON lines of a file."""

    def read(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    return read
