"""A network there is the network here: logits, greedy text, and weights after a return trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer as Library

from groundup.core.errors import CheckpointError, ConfigError, DataError, StorageError
from groundup.generation import sample
from groundup.interop.__main__ import main
from groundup.interop.folder import export, import_
from groundup.model.load import load, save
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import Tokenizer

Make = Callable[..., Path]
LLAMA: dict[str, Any] = {"gain": True, "embedding_norm": False, "qk_norm": False, "activation": "swiglu"}
SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "default grouped, tied, soft-capped": {"kv_heads": 2, "tied": True, "softcap": 20.0, "rope_base": 500.0},
    "llama": LLAMA,
    "llama grouped, tied": {**LLAMA, "kv_heads": 1, "tied": True, "norm_eps": 1e-4, "hidden": 96},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_same_there(shape: str, made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")
    run = made(bpe, **SHAPES[shape])
    export(run, tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens_BT = torch.randint(0, bpe.vocabulary, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = load(run)(tokens_BT), theirs(tokens_BT).logits
    assert expected.std() > 0.1, "logits that hardly differ prove nothing"
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_return_trip_brings_back_weights_config_and_tokenizer(
    shape: str, made: Make, bpe: Tokenizer, tmp_path: Path
) -> None:
    run = made(bpe, **SHAPES[shape])
    export(run, tmp_path / "hf")
    import_(tmp_path / "hf", tmp_path / "back")
    before, after = load(run), load(tmp_path / "back")
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    tokens_BT = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(before(tokens_BT), after(tokens_BT))
    assert load_tokenizer(tmp_path / "back" / "tokenizer").digest == bpe.digest


def test_the_exported_folder_writes_the_same_text_in_a_pipeline(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")
    run = made(bpe)
    net = load(run)
    with torch.no_grad():
        net.head.weight[:258] = 0  # no pieces of single bytes: what is no UTF-8 is shown otherwise there
    save(net, net.config, run)
    export(run, tmp_path / "hf")
    writer = transformers.pipeline("text-generation", model=str(tmp_path / "hf"), device="cpu")
    prompts = ["The", "An object is", "\n  if x <= 3:"]
    ours = sample(net, bpe, prompts, tokens=20, temperature=0)
    for prompt, mine in zip(prompts, ours, strict=True):
        (answer,) = writer(prompt, max_new_tokens=20, do_sample=False, return_full_text=False)
        assert answer["generated_text"] == mine


def test_weights_in_several_files_are_read(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    run = made(bpe)
    hf = tmp_path / "hf"
    export(run, hf)
    tensors = safetensors.torch.load_file(hf / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, held in parts.items():
        safetensors.torch.save_file({name: tensors[name] for name in held}, hf / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    (hf / "model.safetensors").unlink()
    import_(hf, tmp_path / "back")
    assert (tmp_path / "back" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"mixing": True}, "model.mixing=true (not false)"),
        ({"activation": "gelu"}, "model.activation=gelu (not relu2)"),
        ({**LLAMA, "softcap": 30.0}, "model.softcap=30.0 (not null)"),
        ({"mup_base": 16, "mup_head_dim": 4}, "model.mup_base=16 (not null)"),
    ],
)
def test_a_network_that_is_none_of_theirs_is_refused_by_name(
    parts: dict[str, Any], named: str, made: Make, bpe: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as told:
        export(made(bpe, **parts), tmp_path / "hf")
    assert str(told.value).lower().startswith(named)
    assert not (tmp_path / "hf").exists()


def test_what_stands_at_the_target_is_not_touched(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    run = made(bpe)
    with pytest.raises(StorageError, match="holds something already"):
        export(run, run)
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


def spoil_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"model_type": "mamba"}, DataError, r"config\.json: is of model_type mamba; .*nanochat, llama"),
        ({"hidden_size": ...}, DataError, r"config\.json: is damaged or incomplete .*hidden_size"),
        ({"hidden_size": 66}, DataError, r"config\.json: describes no network that can be \(heads=4 does not divide"),
        ({"num_attention_heads": 0}, DataError, r"config\.json: describes no network that can be \(heads=0"),
        ({"rope_parameters": [1]}, DataError, r"config\.json: is damaged or incomplete .*rope_parameters"),
        ({"num_hidden_layers": float("inf")}, DataError, r"config\.json: is damaged or incomplete"),
        ({"quantization_config": {"bits": 4}}, DataError, r"quantization_config is \{'bits': 4\}"),
        ({"attention_bias": True}, DataError, r"config\.json: attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, DataError, r"rope_parameters\.rope_type is yarn"),
        ({"num_hidden_layers": 3}, CheckpointError, r"there is no model\.layers\.2\."),
        ({"vocab_size": 1000}, DataError, r"config\.json: has vocab_size 1000, and the tokenizer beside it 1200 ids"),
        ({"vocab_size": 1300}, CheckpointError, r"head\.weight is 1200x64 there and 1300x64"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told_in_one_line(
    changes: dict[str, Any], error: type[Exception], named: str, made: Make, bpe: Tokenizer, tmp_path: Path
) -> None:
    export(made(bpe), tmp_path / "hf")
    spoil_config(tmp_path / "hf", **changes)
    with pytest.raises(error, match=named):
        import_(tmp_path / "hf", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_damaged_weights_are_told(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    export(made(bpe), tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    whole = safetensors.torch.load(weights.read_bytes())  # not mapped: the file is cut short below
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged"):
        import_(tmp_path / "hf", tmp_path / "back")
    safetensors.torch.save_file({**whole, "model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, weights)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds model\.layers\.0\.self_attn\.q_proj\.bias"):
        import_(tmp_path / "hf", tmp_path / "back")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is missing"):
        import_(tmp_path / "hf", tmp_path / "back")


def test_a_head_of_its_own_beside_tied_weights_is_refused(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    export(made(bpe, tied=True), tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    whole = safetensors.torch.load(weights.read_bytes())
    same = whole["model.embed_tokens.weight"]
    safetensors.torch.save_file({**whole, "lm_head.weight": same.clone()}, weights)
    import_(tmp_path / "hf", tmp_path / "back")
    safetensors.torch.save_file({**whole, "lm_head.weight": same + 1}, weights)
    with pytest.raises(CheckpointError, match=r"holds its own lm_head\.weight"):
        import_(tmp_path / "hf", tmp_path / "other")


def test_a_tokenizer_that_was_changed_there_is_taken_as_it_is_there(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    export(made(bpe, vocabulary=1216), tmp_path / "hf")
    path = tmp_path / "hf" / "tokenizer.json"
    library = Library.from_file(str(path))
    library.add_tokens(["<new>"])
    library.save(str(path))
    import_(tmp_path / "hf", tmp_path / "back")
    found = load_tokenizer(tmp_path / "back" / "tokenizer")
    assert (found.vocabulary, found.end) == (1201, bpe.end)
    assert found.encode("The <new> text") != bpe.encode("The <new> text")
    written = sample(load(tmp_path / "back"), found, ["The"], tokens=30, temperature=5.0)
    assert len(written) == 1, "ids beyond the tokenizer's are never chosen"


def test_a_network_smaller_than_its_tokenizer_is_not_exported(made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a network for 1000 ids beside a tokenizer of 1200"):
        export(made(bpe, vocabulary=1000), tmp_path / "hf")


def test_the_command_line_goes_both_ways_and_tells_errors_in_one_line(
    made: Make, bpe: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, hf, back = str(made(bpe)), str(tmp_path / "hf"), str(tmp_path / "back")
    assert main(["export", run, hf]) == 0
    assert main(["import", hf, back]) == 0
    assert "NanoChatForCausalLM" in capsys.readouterr().out
    assert main(["export", run, hf]) == 2
    assert capsys.readouterr().err == f"error: {hf}: holds something already; give a new folder, or remove that one\n"
