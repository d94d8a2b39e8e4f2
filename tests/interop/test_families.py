"""Odd networks of every family compute there what they compute here, and come back as they were."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.core.errors import CheckpointError, ConfigError
from groundup.interop.families import FAMILIES
from groundup.interop.folder import export, import_
from groundup.model.load import load, read_config


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("odd", Path(__file__).with_name("odd.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd"] = module
    spec.loader.exec_module(module)
    return module


odd = _load()
transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Tiny products gain nothing from threads."""


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("model_type", odd.DRAWN)
def test_odd_networks_are_the_same_there_and_come_back(model_type: str, number: int, tmp_path: Path) -> None:
    off, wrong = odd.both_ways(model_type, number, tmp_path)
    assert off < 1e-4
    assert wrong == 0


def test_every_family_is_drawn() -> None:
    assert set(odd.DRAWN) == {family.model_type for family in FAMILIES}


def logits_there(folder: Path, **entries: Any) -> torch.Tensor:
    """What transformers makes of an export whose config says something else."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return odd.logits_there(odd.there(folder), 0)


@pytest.mark.parametrize(
    ("model_type", "entry", "step"),
    [
        ("mistral", "sliding_window", 1),
        ("gpt_neo", "window_size", 1),
        ("gptj", "rotary_dim", -2),
        ("bloom", "n_head", 1),
        ("gpt_neox", "layer_norm_eps", 0.01),
        ("bert", "layer_norm_eps", 0.01),
        ("roberta", "pad_token_id", -1),
        ("t5", "relative_attention_max_distance", 3),
        ("bart", "encoder_attention_heads", -1),
        ("mbart", "decoder_attention_heads", -1),
    ],
)
def test_an_entry_that_is_off_by_a_little_is_caught(
    model_type: str, entry: str, step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = odd.DRAWN[model_type]
    fixed = {"heads": 6, "width": 60, "head_dim": None, "kv_heads": None, "rope_share": 0.4}
    fixed |= {"buckets": 12, "farthest": 10, "tied": True, "scaled_logits": model_type == "t5"}
    window = {"sliding_window": 3, "sliding_every": 1} if "window" in entry else {}
    wanted = {"heads": 5} if entry == "n_head" else {}  # 60 channels are six heads' too

    def options(draw: Any) -> dict[str, Any]:
        found = drawn(draw)
        return {key: {**fixed, **window, **wanted}.get(key, value) for key, value in {**found, **window}.items()}

    monkeypatch.setitem(odd.DRAWN, model_type, options)
    run = odd.network(model_type, 0, tmp_path / "run")
    export(run, tmp_path / "hf", model_type)
    expected = odd.logits_here(load(run), 0)
    there = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert odd.apart(logits_there(tmp_path / "hf"), expected) < 1e-4
    assert odd.apart(logits_there(tmp_path / "hf", **{entry: there[entry] + step}), expected) > 1e-3


@pytest.mark.parametrize("model_type", odd.DRAWN)
def test_multipliers_that_a_family_does_not_have_are_taken_up_by_weights(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, parts = odd.DRAWN[model_type], {"mup_base": 16, "mup_head_dim": 3, "scaled_logits": model_type != "t5"}
    parts |= {"tied": model_type not in ("nanochat", "mt5", "bart", "opt")}
    parts |= {"mup_head_dim": None} if model_type == "nanochat" else {}
    monkeypatch.setitem(odd.DRAWN, model_type, lambda draw: {**drawn(draw), **parts})
    run = odd.network(model_type, 0, tmp_path / "run")
    net, plain = load(run), replace(read_config(run), mup_base=None, mup_head_dim=None).build().eval()
    plain.load_state_dict(net.state_dict())
    expected = odd.logits_here(net, 0)
    assert odd.apart(odd.logits_here(plain, 0), expected) > 1e-3, "they matter"
    export(run, tmp_path / "hf", model_type)
    assert odd.apart(logits_there(tmp_path / "hf"), expected) < 1e-4
    import_(tmp_path / "hf", tmp_path / "back")
    assert odd.apart(odd.logits_here(load(tmp_path / "back"), 0), expected) < 1e-4


def test_weights_are_written_in_parts_of_the_size_asked_for_and_read_from_them(tmp_path: Path) -> None:
    run = odd.network("gpt2", 1, tmp_path / "run")
    export(run, tmp_path / "hf", part_bytes=20_000)
    parts = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(parts) > 3
    assert {path.name for path in parts} == set(index["weight_map"].values())
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()(odd.text(1)).logits
        assert odd.apart(theirs, load(run)(odd.text(1))) < 1e-4
    import_(tmp_path / "hf", tmp_path / "back")
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def test_pickled_weights_and_names_without_their_prefix_are_read(tmp_path: Path) -> None:
    run = odd.network("gpt2", 2, tmp_path / "run")
    export(run, tmp_path / "hf")
    (weights,) = (tmp_path / "hf").glob("*.safetensors")
    tensors = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    if not read_config(run).tied:
        bare["lm_head.weight"] = tensors["lm_head.weight"]
    torch.save(bare | {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}, tmp_path / "hf" / "pytorch_model.bin")
    weights.unlink()
    import_(tmp_path / "hf", tmp_path / "back")
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def test_a_network_of_several_families_is_written_as_the_one_asked_for(tmp_path: Path) -> None:
    run = odd.network("opt", 0, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model_type=mamba: is not known; choose from .*gpt2"):
        export(run, tmp_path / "hf", "mamba")
    with pytest.raises(ConfigError, match=r"nearest is BloomForCausalLM"):
        export(run, tmp_path / "hf", "bloom")
    assert export(run, tmp_path / "hf", "opt").architecture == "OPTForCausalLM"


def test_biases_of_norms_where_there_are_none_here_must_be_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = odd.DRAWN["opt"]
    monkeypatch.setitem(odd.DRAWN, "opt", lambda draw: {**drawn(draw), "bias": False, "gain": True})
    run = odd.network("opt", 0, tmp_path / "run")
    export(run, tmp_path / "hf", "opt")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs.model.decoder.layers[0].fc1.weight.add_(1.0)
        theirs.model.decoder.layers[0].final_layer_norm.bias.add_(1.0)
    theirs.save_pretrained(tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"layers\.0\.final_layer_norm\.bias that is not zero"):
        import_(tmp_path / "hf", tmp_path / "back")


def test_matrices_between_equal_widths_are_no_opt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = odd.DRAWN["opt"]
    monkeypatch.setitem(odd.DRAWN, "opt", lambda draw: (made := drawn(draw)) | {"embedding_width": made["width"]})
    run = odd.network("opt", 0, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"embedding_width=\d+ \(not null\)"):
        export(run, tmp_path / "hf", "opt")
    assert not (tmp_path / "hf").exists()
