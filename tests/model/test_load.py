"""A network comes back from its folder bit for bit, or the reason why not is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from groundup.core.errors import CheckpointError
from groundup.model.load import load, save


@pytest.fixture
def saved(tmp_path: Path, configure: Callable[..., Any]) -> Path:
    config = configure()
    save(config.build(), config, tmp_path)
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_comes_back_bit_for_bit_and_in_eval_mode(
    tmp_path: Path, build: Callable[..., Any], configure: Callable[..., Any], recipe: dict[str, Any]
) -> None:
    net = build(torch.float32, dropout=0.1, **recipe).train()
    save(net, configure(dropout=0.1, **recipe), tmp_path / "run")
    again = load(tmp_path / "run")
    assert not again.training
    tensors = again.state_dict()
    assert list(tensors) == list(net.state_dict())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in net.state_dict().items())
    tokens = torch.randint(0, 61, (2, 9))
    assert torch.equal(again(tokens), net.eval()(tokens))


def test_a_tied_matrix_is_stored_once(tmp_path: Path, configure: Callable[..., Any]) -> None:
    config = configure(tied=True)
    save(config.build(), config, tmp_path)
    names = set(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    assert "trunk.embedding.weight" in names and "head.weight" not in names


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own compiler on import
def test_a_compiled_network_is_saved_under_plain_names(tmp_path: Path, configure: Callable[..., Any]) -> None:
    config = configure()
    net = config.build()
    net.compile_()
    save(net, config, tmp_path)
    assert not any("_orig_mod" in name for name in safetensors.torch.load_file(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert refused(saved).startswith(f"{saved / name}: is missing; ")


def test_another_models_weights_are_refused_naming_the_first_tensor_and_both_shapes(
    saved: Path, configure: Callable[..., Any]
) -> None:
    text = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({"model": {**text["model"], "vocabulary": 62}}))
    assert "another model's weights: trunk.embedding.weight is 61x32 there and 62x32 in model.json" in refused(saved)
    (saved / "model.json").write_text(json.dumps({"model": {**text["model"], "layers": 3}}))
    assert "there is no trunk.blocks.2.attention.query.weight" in refused(saved)
    (saved / "model.json").write_text(json.dumps({"model": {**text["model"], "layers": 1}}))
    assert "model.json has no trunk.blocks.1." in refused(saved)


def test_a_damaged_weights_file_is_named(saved: Path) -> None:
    path = saved / "weights.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:4], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        assert refused(saved).startswith(f"{path}: is damaged or cannot be read")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"model": 3}', '{"model": {"kind": "decoder", "layers": 0}}', '{"model": {"kind": "gpt"}}'],
)
def test_a_config_that_describes_no_network_is_named(saved: Path, text: str) -> None:
    (saved / "model.json").write_text(text)
    assert refused(saved).startswith(str(saved / "model.json"))


def test_an_open_config_is_no_network(saved: Path) -> None:
    text = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({"model": {**text["model"], "context": None}}))
    assert "describes no network known here" in refused(saved)


def test_a_flipped_bit_of_the_weights_is_seen(saved: Path) -> None:
    path = saved / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "weights.safetensors: is damaged: its checksum is not that in model.json" in refused(saved)
