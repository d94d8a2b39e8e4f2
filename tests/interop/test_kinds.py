"""Encoders and encoder-decoders there: files in every shape, what their pieces are called, and what pipelines do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from groundup.core.errors import CheckpointError, ConfigError, DataError
from groundup.generation import sample
from groundup.interop.__main__ import main
from groundup.interop.begin import beginning
from groundup.interop.folder import export, import_
from groundup.model.config import Decoder, EncoderDecoder
from groundup.model.load import load, read_config, save
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.load import load as load_tokenizer
from groundup.tokenizer.protocol import Tokenizer

transformers = pytest.importorskip("transformers", reason="transformers judges what is exported")
Make = Callable[..., Path]
PLAIN: dict[str, Any] = {"qk_norm": False, "gain": True}
GPT2 = {**PLAIN, "positions": "learned", "norm": "layer", "bias": True, "norm_place": "post", "init": "gpt2"}
BERT = {**GPT2, "kind": "encoder", "activation": "gelu", "head_transform": True, "head_bias": True}
T5 = {**PLAIN, "kind": "encoder_decoder", "positions": "t5", "embedding_norm": False, "scaled_scores": False}
BART = {**GPT2, "kind": "encoder_decoder", "activation": "gelu", "tied": True}


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write a folder's weights anew."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def returned(run: Path, back: Path) -> bool:
    """Whether a return trip has brought the weights back."""
    return (back / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def again(tensors: dict[str, torch.Tensor], name: str, *copies: str, keep: bool = True) -> None:
    """Let a tensor stand under other names too, or instead."""
    tensors.update({copy: tensors[name].clone() for copy in copies})
    if not keep:
        del tensors[name]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("parts", "name", "copies"),
    [
        ({**T5, "tied": True, "scaled_logits": True}, "shared.weight", ["encoder.embed_tokens.weight"]),
        (
            {**T5, "tied": True, "scaled_logits": True},
            "shared.weight",
            ["decoder.embed_tokens.weight", "lm_head.weight"],
        ),
        (T5, "shared.weight", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
        (BART, "model.shared.weight", ["model.decoder.embed_tokens.weight", "lm_head.weight"]),
        (BART, "model.shared.weight", ["model.encoder.embed_tokens.weight"]),
        ({**BERT, "tied": True}, "bert.embeddings.word_embeddings.weight", ["cls.predictions.decoder.weight"]),
        (BERT, "cls.predictions.decoder.bias", ["cls.predictions.bias"]),
    ],
)
def test_tensors_that_are_one_may_stand_there_twice_or_under_another_name(
    parts: dict[str, Any], name: str, copies: list[str], keep: bool, made: Make, tmp_path: Path
) -> None:
    run, hf = made(Bytes(), **parts), tmp_path / "hf"
    export(run, hf)
    changed(hf, lambda tensors: again(tensors, name, *copies, keep=keep))
    import_(hf, tmp_path / "back")
    assert returned(run, tmp_path / "back")
    assert read_config(tmp_path / "back").tied == parts.get("tied", False)


def test_another_matrix_in_the_place_of_the_shared_one_is_refused(made: Make, tmp_path: Path) -> None:
    export(made(Bytes(), **BART), tmp_path / "hf")
    changed(tmp_path / "hf", lambda tensors: again(tensors, "model.shared.weight", "model.encoder.embed_tokens.weight"))
    changed(tmp_path / "hf", lambda tensors: tensors["model.encoder.embed_tokens.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"its own model\.encoder\.embed_tokens\.weight, and is model\.shared"):
        import_(tmp_path / "hf", tmp_path / "back")


def test_names_of_berts_first_files_and_of_its_other_heads_are_known(made: Make, tmp_path: Path) -> None:
    run, hf = made(Bytes(), **BERT), tmp_path / "hf"
    export(run, hf)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            tensors[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = (
                tensors.pop(name)
            )
        tensors["bert.pooler.dense.weight"] = torch.ones(64, 64)
        tensors["cls.seq_relationship.bias"] = torch.ones(2)
        tensors["cls.predictions.bias"].zero_()  # not read where there is another

    changed(hf, change)
    import_(hf, tmp_path / "back")
    assert returned(run, tmp_path / "back")


def test_a_head_that_is_not_the_embedding_is_taken_whatever_t5s_config_says(made: Make, tmp_path: Path) -> None:
    run = made(Bytes(), **T5)
    export(run, tmp_path / "hf")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "hf")
    saved = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert saved["tie_word_embeddings"] is True and saved["scale_decoder_outputs"] is False
    import_(tmp_path / "hf", tmp_path / "back")
    assert returned(run, tmp_path / "back")


@pytest.mark.parametrize(
    ("parts", "other", "named"),
    [
        (T5, BART, r"holds another model's weights|holds final_logits_bias, which config\.json does not speak of"),
        (BART, BERT, r"holds model\.bert\."),
        (BERT, T5, r"holds decoder\.block"),
    ],
)
def test_weights_of_another_family_are_told_before_anything_is_written(
    parts: dict[str, Any], other: dict[str, Any], named: str, made: Make, tmp_path: Path
) -> None:
    export(made(Bytes(), **parts), tmp_path / "hf")
    config = (tmp_path / "hf" / "config.json").read_text()
    export(made(Bytes(), **other), tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=named):
        import_(tmp_path / "other", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("parts", "changes", "error", "named"),
    [
        (T5, {"relative_attention_num_buckets": 31}, CheckpointError, r"buckets\.weight is 32x4 there and 31x4"),
        (T5, {"d_kv": 8}, CheckpointError, r"attention\.key\.weight is 64x64 there and 32x64"),
        (T5, {"num_layers": 1}, CheckpointError, r"holds encoder\.block\.1\."),
        (T5, {"feed_forward_proj": "gated-relu"}, DataError, r"feed_forward_proj is gated-relu"),
        (T5, {"model_type": "umt5"}, DataError, r"is of model_type umt5; .*t5, mt5, bart"),
        (BART, {"encoder_ffn_dim": 7}, DataError, r"encoder_ffn_dim is 7, and decoder_ffn_dim 256"),
        (BERT, {"is_decoder": True}, DataError, r"is_decoder is True"),
    ],
)
def test_a_config_of_another_network_is_told_in_one_line(
    parts: dict[str, Any],
    changes: dict[str, Any],
    error: type[Exception],
    named: str,
    made: Make,
    tmp_path: Path,
) -> None:
    export(made(Bytes(), **parts), tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(error, match=named):
        import_(tmp_path / "hf", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("parts", "model_type", "named"),
    [
        (
            {**BERT, "head_transform": False},
            None,
            "model.head_transform=false (not true): .* nearest is BertForMaskedLM",
        ),
        ({**T5, "gain": False}, None, "model.gain=false (not true): .* nearest is T5ForConditionalGeneration"),
        ({**BART, "scaled_logits": True}, None, "model.scaled_logits=true (not false): .*; weights take up"),
        (BERT, "gpt2", "model.kind=encoder (not decoder): .* nearest is GPT2LMHeadModel"),
        ({**GPT2, "segments": 2, "embedding_norm": False, "norm_place": "pre"}, None, "model.segments=2 (not null)"),
        ({"mup_base": 32, "tied": True}, None, "model.mup_base=32 (not null): .*; weights take up .* tied=false"),
    ],
)
def test_a_network_that_is_none_of_theirs_is_told_by_the_nearest_of_its_kind(
    parts: dict[str, Any], model_type: str | None, named: str, made: Make, tmp_path: Path
) -> None:
    pattern = named.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigError, match=f"(?i){pattern}"):
        export(made(Bytes(), **parts), tmp_path / "hf", model_type)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_mask_is_filled_there_as_here_and_padding_moves_no_text(
    model_type: str, made: Make, bpe: Tokenizer, tmp_path: Path
) -> None:
    run = made(bpe, **BERT, vocabulary=bpe.vocabulary + 1)
    export(run, tmp_path / "hf", model_type)
    filler = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"), device="cpu")
    text = "The <mask> of a\0\x01\x02 list"
    ids = [bpe.end, *bpe.encode("The"), bpe.vocabulary, *bpe.encode(" of a\0\x01\x02 list")]
    assert filler.tokenizer(text)["input_ids"] == ids
    with torch.no_grad():
        likeliest = load(run)(torch.tensor([ids]))[0, ids.index(bpe.vocabulary)].softmax(-1)
    (first, *_) = filler(text)
    assert first["token"] == int(likeliest.argmax())
    assert first["score"] == pytest.approx(float(likeliest.max()), rel=1e-3)
    texts = ["The list", "An object is one of the values that a program has"]
    padded = filler.tokenizer(texts, padding=True, return_tensors="pt")
    assert padded["attention_mask"].sum(dim=1).tolist() == [1 + len(bpe.encode(text)) for text in texts]
    with torch.no_grad():
        found = filler.model(**padded).logits[0, : 1 + len(bpe.encode(texts[0]))]
        alone = load(run)(torch.tensor([[bpe.end, *bpe.encode(texts[0])]]))[0]
    torch.testing.assert_close(found, alone, atol=2e-5, rtol=1e-4)


def test_roberta_needs_an_id_that_no_text_has(made: Make, tmp_path: Path) -> None:
    run = made(Bytes(), **BERT, vocabulary=258)
    with pytest.raises(ConfigError, match=r"model\.vocabulary=258: leaves no id for padding.*export as bert"):
        export(run, tmp_path / "hf", "roberta")
    export(run, tmp_path / "hf", "bert")
    assert "mask_token" in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("parts", [{**T5, "activation": "geglu_tanh"}, {**BART, "start": 7}], ids=["t5", "bart"])
def test_an_answer_is_written_there_as_here(parts: dict[str, Any], made: Make, bpe: Tokenizer, tmp_path: Path) -> None:
    run = made(bpe, **{**parts, "tied": False}, vocabulary=bpe.vocabulary + 5)
    net = load(run)
    with torch.no_grad():  # neither bytes alone nor sentinels: what is no text is shown otherwise there
        net.head.weight[:258] = net.head.weight[bpe.vocabulary :] = 0
    save(net, net.config, run)
    export(run, tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    prompts = ["The", "An object is", "\n  if x <= 3:"]
    for prompt, mine in zip(prompts, sample(net, bpe, prompts, tokens=20, temperature=0), strict=True):
        source = tokenizer(prompt, return_tensors="pt")
        assert source["input_ids"][0].tolist() == [*bpe.encode(prompt), bpe.end]
        (answer,) = theirs.generate(**source, max_new_tokens=20, do_sample=False)
        assert tokenizer.decode(answer[1:], skip_special_tokens=True) == mine


def test_a_run_begins_with_weights_of_the_folders_kind_and_their_start(made: Make, tmp_path: Path) -> None:
    export(made(Bytes(), **T5, start=0), tmp_path / "hf")
    for model in (EncoderDecoder, Decoder):
        begun = beginning(model(init_from=str(tmp_path / "hf"), dropout=0.25), tmp_path / "imported")
        assert isinstance(begun, EncoderDecoder)
        assert (begun.start, begun.dropout, begun.positions) == (0, 0.25, "t5")
        assert begun.init_hash is not None


@pytest.mark.parametrize(
    ("parts", "opener"), [(BERT, "AutoModelForMaskedLM"), (T5, "AutoModelForSeq2SeqLM"), ({}, "AutoModelForCausalLM")]
)
def test_the_command_line_names_what_opens_the_folder(
    parts: dict[str, Any], opener: str, made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(Bytes(), **parts)
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    assert f", for {opener} and AutoTokenizer" in capsys.readouterr().out
    import_(tmp_path / "hf", tmp_path / "back")
    assert load_tokenizer(tmp_path / "back" / "tokenizer").digest == Bytes().digest
