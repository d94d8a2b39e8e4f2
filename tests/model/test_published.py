"""The presets of published models have as many parameters as their papers or model cards say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from groundup.core.config import from_dict

OWN = {"nano", "10m", "350m", "1b"}
"""Presets that are no published model."""

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "architectures.md"
EXACT = 0.0
GPT2 = "OpenAI's repository gpt-2; Radford et al. 2019 miscount"
GPT3 = "Brown et al. 2020, table D.1"
PYTHIA = "the model cards of Biderman et al. 2023"
OPT = "Zhang et al. 2022, table 1"
BLOOM = "the model cards of Le Scao et al. 2022"
PALM = "Chowdhery et al. 2022, table 1"
GOPHER = "Rae et al. 2021, table 1"
GALACTICA = "Taylor et al. 2022, the table of models"
LLAMA = "Touvron et al. 2023, LLaMA, table 2"
HUB = "the published weights as the Hugging Face hub counts them"
QWEN = "the model cards of Yang et al. 2025"
BYT5 = "Xue et al. 2022, table 1"
WEIGHTS = "the published weights, without rows that nothing reads"

PUBLISHED: dict[str, tuple[float, float, str]] = {
    "gpt2-124m": (124e6, 0.5 / 124, GPT2),
    "gpt2-355m": (355e6, 0.5 / 355, GPT2),
    "gpt2-774m": (774e6, 0.5 / 774, GPT2),
    "gpt2-1.5b": (1558e6, 0.5 / 1558, GPT2),
    "gpt3-125m": (125e6, 0.5 / 125, GPT3),
    "gpt3-350m": (356e6, 0.5 / 356, GPT3),
    "gpt3-760m": (760e6, 0.5 / 760, GPT3),
    "gpt3-1.3b": (1320e6, 5 / 1320, GPT3),
    "gpt3-2.7b": (2650e6, 5 / 2650, GPT3),
    "gpt3-6.7b": (6660e6, 5 / 6660, GPT3),
    "gpt3-13b": (12850e6, 5 / 12850, GPT3),
    "gpt3-175b": (174600e6, 50 / 174600, GPT3),
    "gptj-6b": (6_053_381_344, 5e-4, "mesh-transformer-jax, model card"),
    "gpt-neox-20b": (20_554_567_680, EXACT, "Black et al. 2022, model card"),
    "pythia-14m": (14e6, 0.5 / 14, PYTHIA),
    "pythia-31m": (31e6, 1 / 31, PYTHIA),
    "pythia-70m": (70_426_624, EXACT, PYTHIA),
    "pythia-160m": (162_322_944, EXACT, PYTHIA),
    "pythia-410m": (405_334_016, EXACT, PYTHIA),
    "pythia-1b": (1_011_781_632, EXACT, PYTHIA),
    "pythia-1.4b": (1_414_647_808, EXACT, PYTHIA),
    "pythia-2.8b": (2_775_208_960, EXACT, PYTHIA),
    "pythia-6.9b": (6_857_302_016, EXACT, PYTHIA),
    "pythia-12b": (11_846_072_320, EXACT, PYTHIA),
    "opt-125m": (125e6, 0.5 / 125, OPT),
    "opt-350m": (331e6, 0.5 / 331, "the published weights, 331,196,416 with two unused rows of positions"),
    "opt-1.3b": (1.3e9, 0.05 / 1.3, OPT),
    "opt-2.7b": (2.7e9, 0.05 / 2.7, OPT),
    "opt-6.7b": (6.7e9, 0.05 / 6.7, OPT),
    "opt-13b": (13e9, 0.5 / 13, OPT),
    "opt-30b": (30e9, 0.5 / 30, OPT),
    "opt-66b": (66e9, 0.5 / 66, OPT),
    "opt-175b": (175e9, 0.5 / 175, OPT),
    "bloom-560m": (559_214_592, EXACT, BLOOM),
    "bloom-1b1": (1_065_314_304, EXACT, BLOOM),
    "bloom-1b7": (1_722_408_960, EXACT, BLOOM),
    "bloom-3b": (3_002_557_440, EXACT, BLOOM),
    "bloom-7b1": (7_069_016_064, EXACT, BLOOM),
    "bloom-176b": (176_247_271_424, EXACT, BLOOM),
    "palm-8b": (8.63e9, 0.005 / 8.63, PALM),
    "palm-62b": (62.50e9, 0.005 / 62.50, PALM),
    "palm-540b": (540.35e9, 0.01 / 540.35, PALM),
    "gopher-44m": (44e6, 0.5 / 44, GOPHER),
    "gopher-117m": (117e6, 0.5 / 117, GOPHER),
    "gopher-417m": (417e6, 0.5 / 417, GOPHER),
    "gopher-1.4b": (1.4e9, 0.05 / 1.4, GOPHER),
    "gopher-7.1b": (7.1e9, 0.05 / 7.1, GOPHER),
    "gopher-280b": (280e9, 0.5 / 280, GOPHER),
    "chinchilla-70b": (70e9, 0.5 / 70, "Hoffmann et al. 2022, table 4"),
    "galactica-125m": (125e6, 0.5 / 125, GALACTICA),
    "galactica-1.3b": (1.3e9, 0.05 / 1.3, GALACTICA),
    "galactica-6.7b": (6.7e9, 0.05 / 6.7, GALACTICA),
    "galactica-30b": (30e9, 0.5 / 30, GALACTICA),
    "galactica-120b": (120e9, 5 / 120, GALACTICA),
    "mt-nlg-530b": (530e9, 0.5 / 530, "Smith et al. 2022"),
    "llama-7b": (6.7e9, 0.05 / 6.7, LLAMA),
    "llama-13b": (13.0e9, 0.05 / 13.0, LLAMA),
    "llama-33b": (32.5e9, 0.05 / 32.5, LLAMA),
    "llama-65b": (65.2e9, 0.1 / 65.2, LLAMA),
    "llama2-7b": (6.74e9, 0.005 / 6.74, HUB),
    "llama2-13b": (13e9, 0.5 / 13, HUB),
    "llama2-70b": (69e9, 0.5 / 69, HUB),
    "llama3-8b": (8.03e9, 0.005 / 8.03, HUB),
    "llama3-70b": (70.6e9, 0.05 / 70.6, HUB),
    "llama3.1-405b": (406e9, 0.5 / 406, HUB),
    "llama3.2-1b": (1.23e9, 0.01 / 1.23, "model card"),
    "llama3.2-3b": (3.21e9, 0.005 / 3.21, "model card"),
    "mistral-7b": (7.24e9, 0.005 / 7.24, HUB),
    "mixtral-8x7b": (46.7e9, 0.05 / 46.7, "Jiang et al. 2024 say 47B; the published weights as the hub counts them"),
    "qwen3-0.6b": (0.6e9, 0.05 / 0.6, QWEN),
    "qwen3-1.7b": (1.7e9, 0.05 / 1.7, QWEN),
    "qwen3-4b": (4.0e9, 0.05 / 4.0, QWEN),
    "qwen3-8b": (8.2e9, 0.05 / 8.2, QWEN),
    "qwen3-14b": (14.8e9, 0.05 / 14.8, QWEN),
    "qwen3-32b": (32.8e9, 0.05 / 32.8, QWEN),
    "bert-base": (109_514_298, EXACT, WEIGHTS),
    "bert-large": (335_174_458, EXACT, WEIGHTS),
    "roberta-base": (125e6, 0.5 / 125, "fairseq's page of RoBERTa"),
    "roberta-large": (355e6, 0.5 / 355, "Liu et al. 2019, section 5"),
    "bart-base": (140e6, 1 / 140, "fairseq's page of BART"),
    "bart-large": (406_291_456, 2e-5, "the published weights, with four unused rows of positions"),
    "t5-small": (60_506_624, EXACT, WEIGHTS),
    "t5-base": (222_903_552, EXACT, WEIGHTS),
    "t5-large": (737_668_096, EXACT, WEIGHTS),
    "t5-3b": (2_851_598_336, EXACT, WEIGHTS),
    "t5-11b": (11_307_321_344, EXACT, WEIGHTS),
    "t5-v1.1-small": (76_961_152, EXACT, WEIGHTS),
    "t5-v1.1-base": (247_577_856, EXACT, WEIGHTS),
    "t5-v1.1-large": (783_150_080, EXACT, WEIGHTS),
    "t5-v1.1-xl": (2_849_757_184, EXACT, WEIGHTS),
    "t5-v1.1-xxl": (11_135_332_352, EXACT, WEIGHTS),
    "ul2-20b": (19.5e9, 0.05 / 19.5, "the announcement of Flan-UL2; Tay et al. 2022 round to 20B"),
    "byt5-small": (300e6, 0.5 / 300, BYT5),
    "byt5-base": (582e6, 0.5 / 582, BYT5),
    "byt5-large": (1.23e9, 0.005 / 1.23, BYT5),
    "byt5-xl": (3.74e9, 0.005 / 3.74, BYT5),
    "byt5-xxl": (12.9e9, 0.05 / 12.9, BYT5),
}
"""The published count of all parameters, the relative error that its last digit allows, and where it stands.

Half a unit of the last digit is what rounding leaves, a whole one stands where the publication cut or rounded up.
The heads of BERT's and RoBERTa's masked language models are counted, and no pooler.
GPT-J's card counts some norms and biases once for each of 8 devices, 2,498,560 numbers in all.
"""

GELU = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def _bart(width: int, layers: int, heads: int) -> dict[str, Any]:
    stacks = ("encoder", "decoder")
    sizes = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
    return {"d_model": width, **{f"{stack}_{key}": value for stack in stacks for key, value in sizes.items()}}


def _t5(width: int, channels: int, hidden: int, layers: int, heads: int, **otherwise: Any) -> dict[str, Any]:
    sizes = {"d_model": width, "d_kv": channels, "d_ff": hidden, "num_layers": layers, "num_heads": heads}
    return {"vocab_size": 32128, **sizes, **otherwise}


def _byt5(width: int, hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return _t5(width, 64, hidden, 3 * layers, heads, num_decoder_layers=layers, **GELU) | {"vocab_size": 384}


THEIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert-base": ("Bert", "MaskedLM", {}),
    "bert-large": ("Bert", "MaskedLM", LARGE),
    "roberta-base": ("Roberta", "MaskedLM", ROBERTA),
    "roberta-large": ("Roberta", "MaskedLM", {**ROBERTA, **LARGE}),
    "bart-base": ("Bart", "ConditionalGeneration", _bart(768, 6, 12)),
    "bart-large": ("Bart", "ConditionalGeneration", _bart(1024, 12, 16)),
    "t5-small": ("T5", "ConditionalGeneration", _t5(512, 64, 2048, 6, 8)),
    "t5-base": ("T5", "ConditionalGeneration", _t5(768, 64, 3072, 12, 12)),
    "t5-large": ("T5", "ConditionalGeneration", _t5(1024, 64, 4096, 24, 16)),
    "t5-3b": ("T5", "ConditionalGeneration", _t5(1024, 128, 16384, 24, 32)),
    "t5-11b": ("T5", "ConditionalGeneration", _t5(1024, 128, 65536, 24, 128)),
    "t5-v1.1-small": ("T5", "ConditionalGeneration", _t5(512, 64, 1024, 8, 6, **GELU)),
    "t5-v1.1-base": ("T5", "ConditionalGeneration", _t5(768, 64, 2048, 12, 12, **GELU)),
    "t5-v1.1-large": ("T5", "ConditionalGeneration", _t5(1024, 64, 2816, 24, 16, **GELU)),
    "t5-v1.1-xl": ("T5", "ConditionalGeneration", _t5(2048, 64, 5120, 24, 32, **GELU)),
    "t5-v1.1-xxl": ("T5", "ConditionalGeneration", _t5(4096, 64, 10240, 24, 64, **GELU)),
    "ul2-20b": ("T5", "ConditionalGeneration", _t5(4096, 256, 16384, 32, 16, feed_forward_proj="gated-silu")),
    "byt5-small": ("T5", "ConditionalGeneration", _byt5(1472, 3584, 4, 6)),
    "byt5-base": ("T5", "ConditionalGeneration", _byt5(1536, 3968, 6, 12)),
    "byt5-large": ("T5", "ConditionalGeneration", _byt5(1536, 3840, 12, 16)),
    "byt5-xl": ("T5", "ConditionalGeneration", _byt5(2560, 6720, 12, 32)),
    "byt5-xxl": ("T5", "ConditionalGeneration", _byt5(4672, 12352, 12, 64)),
}
"""Model, task and what the published config.json files say that transformers does not by itself."""

UNREAD = {"roberta-base": 3 * 768, "roberta-large": 3 * 1024, "bart-base": 4 * 768, "bart-large": 4 * 1024}
"""Numbers of rows that nothing reads: two of positions for each stack; RoBERTa's one segment, which is zero."""


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_presets", Path(__file__).with_name("presets.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


presets = _load()


def test_every_preset_is_our_own_or_a_published_model() -> None:
    assert set(presets.NAMES) == OWN | set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_parameters_as_its_paper_says(name: str) -> None:
    published, tolerance, source = PUBLISHED[name]
    assert abs(presets.preset(name).parameters()["total"] - published) <= tolerance * published, source


@pytest.mark.parametrize("name", THEIRS)
def test_a_network_of_transformers_has_as_many_parameters(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers counts too")
    model, task, entries = THEIRS[name]
    config = getattr(transformers, f"{model}Config")(**entries)
    with torch.device("meta"):
        net = getattr(transformers, f"{model}For{task}")(config)
    untied = net.lm_head.weight.numel() if entries.get("tie_word_embeddings") is False else 0  # it ties them anyway
    theirs = sum(parameter.numel() for parameter in net.parameters()) + untied
    assert presets.preset(name).parameters()["total"] == theirs - UNREAD.get(name, 0)


def test_a_preset_repeats_nothing_that_it_would_have_anyway() -> None:
    for name in PUBLISHED:
        own = presets.read(name)
        (base,) = own.pop("defaults")
        otherwise = from_dict("model", {"kind": base}) if base in presets.KINDS else presets.preset(base)
        for key, value in own.items():
            assert value != getattr(otherwise, key), f"{name}: {key}"


def test_the_guide_lists_every_published_model_with_its_count() -> None:
    rows = re.findall(r"^\| `(\S+)` \| [^|]+ \| ([\d,]+) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    counted = {name: f"{presets.preset(name).parameters()['total']:,}" for name in PUBLISHED}
    assert dict(rows) == counted
