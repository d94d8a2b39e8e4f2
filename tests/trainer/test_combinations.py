"""Random valid combinations of options train two steps, alone and as ranks; every option composes and builds."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import together

from groundup.core import checkpoint
from groundup.core.config import compose, from_dict, groups
from groundup.core.errors import ConfigError
from groundup.core.progress import Progress
from groundup.verb.train import Train

CONF = Path(__file__).resolve().parents[2] / "conf"
COMMON = [
    "model.layers=2",
    "tokens=65536",
    "stop_steps=2",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.log_every=1",
]
SPREAD = {
    "fsdp": 2,
    "fsdp strategy.replicas=2 strategy.sum_every=true": 2,
    "tensor strategy.recompute=full": 2,
    "tensor strategy.sequence=false": 2,
    "context": 2,
    "fsdp strategy.context=2": 2,
    "pipeline strategy.schedule=gpipe": 2,
    "mesh strategy.pipeline=2": 2,
    "mesh strategy.tensor=2": 2,
    "local_sgd strategy.every=1": 2,
    "deepspeed": 2,
    "async_sgd": 3,
    "fsdp strategy.replicas=3": 4,
    "mesh strategy.pipeline=2 strategy.tensor=2": 4,
    "mesh strategy.tensor=2 strategy.shard=true": 4,
}
"""Ways to spread a run over so many ranks."""

FIT = {"objective": "pretrain model=nano", "model.dropout": "0.0", "model.heads": "2", "model.kv_heads": "null"}
FIT |= {"data.micro_batch": "4"}
"""What every way can spread; the rest stays random."""

BOTH_WAYS = "model.shift=false model.sliding_window=null model.sliding_every=1 model.parallel=null"
BOTH_WAYS += " model.embedding_width=null"
"""What is of decoders alone, switched off."""

CHOICES: dict[str, list[str]] = {
    "model.width": ["32", "48"],
    "model.heads": ["1", "2", "4"],
    "model.kv_heads": ["null", "1", "2"],
    "model.head_dim": ["null", "null", "8"],
    "model.embedding_width": ["null", "null", "10"],
    "model.positions": [
        "learned",
        "rotary",
        "rotary model.rope_share=0.5",
        "sinusoidal",
        "alibi",
        "transformer_xl",
        "t5 model.buckets=8 model.farthest=12",
        "none",
    ],
    "model.segments": ["null", "null", "2"],
    "model.head_transform": ["false", "false", "true"],
    "model.sliding_window": ["null", "7", "7 model.sliding_every=2"],
    "model.scaled_scores": ["true", "true", "false"],
    "model.attention_bias": ["null", "true"],
    "model.output_bias": ["null", "true"],
    "model.norm": ["rms", "layer"],
    "model.norm_place": ["pre", "pre", "pre", "post model.init=gpt2"],
    "model.parallel": ["null", "one_norm", "two_norms"],
    "model.gain": ["true", "false"],
    "model.embedding_norm": ["true", "false"],
    "model.qk_norm": ["true", "false"],
    "model.activation": ["relu2", "relu", "gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh"],
    "model.experts": ["null", "null", "3", "3 model.experts_every=2"],
    "model.bias": ["true", "false"],
    "model.tied": ["true", "false"],
    "model.head_bias": ["true", "false"],
    "model.scaled_embedding": ["true", "false"],
    "model.scaled_logits": ["true", "false"],
    "model.dropout": ["0.0", "0.2"],
    "model.softcap": ["null", "15.0"],
    "model.mixing": ["true", "false"],
    "model.value_embeddings": ["true", "false"],
    "model.shift": ["true", "false"],
    "model.init": ["modern", "gpt2", "gaussian", "depth", "small", "fan_in"],
    "objective": [
        "pretrain model=nano",
        "pretrain model=nano",
        "prefix model=nano model.mask=prefix",
        f"prefix model=encoder_decoder {BOTH_WAYS}",
        f"masked model=encoder {BOTH_WAYS}",
        f"masked model=encoder objective.whole_words=true {BOTH_WAYS}",
        f"span model=encoder_decoder {BOTH_WAYS}",
        f"denoise model=encoder_decoder model.encoder_layers=1 {BOTH_WAYS}",
        f"ul2 model=encoder_decoder {BOTH_WAYS}",
    ],
    "objective.z_loss": ["null", "1e-4"],
    "objective.clip": ["null", "1.0"],
    "optimizer": ["adamw", "adamw model.mup_base=16", "muon", "sgd", "adafactor", "lion"],
    "optimizer.l1": ["0.0", "1e-6"],
    "optimizer.decay_embeddings": ["true", "false"],
    "schedule": ["constant", "linear", "cosine", "wsd"],
    "schedule.warmup_steps": ["null", "1"],
    "strategy": ["auto", "single", "ddp"],
    "data.context": ["16", "32"],
    "data.micro_batch": ["3", "8"],
    "data.document_mask": ["true", "false"],
    "data.workers": ["0", "0", "0", "1"],
    "data.repeat_samples": ["null", "5"],
    "trainer.precision": ["fp32", "bf16"],
    "trainer.validate_every": ["null", "2"],
    "data.held_out_tokens": ["512"],
    "callback": ["[checkpoint]", "[checkpoint,ema,throughput,progress]", "none"],
    "logger": ["csv", "[csv,tensorboard]"],
}


def composed(verb: str, overrides: list[str]) -> Any:
    """The verb's config as the command line would compose it."""
    return compose.composed(CONF, verb, *overrides)


def draw(number: int, fixed: Mapping[str, str] | None = None) -> tuple[list[str], Train]:
    """The first valid combination of a number's stream, in which some choices are fixed, and its config."""
    stream = random.Random(number)
    while True:
        drawn = dict(
            override.split("=", 1) for override in _drawn(stream, fixed or {})
        )  # what comes later, with a space, wins
        overrides = [f"{key}={value}" for key, value in drawn.items()]
        try:
            return overrides, composed("train", [*COMMON, *overrides, "data.batch_tokens=256"])
        except ConfigError:
            continue


def _drawn(stream: random.Random, fixed: Mapping[str, str]) -> list[str]:
    """An override for each choice, and for those that bring one more."""
    chosen = ((key, fixed.get(key, stream.choice(values))) for key, values in CHOICES.items())
    return [override for key, value in chosen for override in f"{key}={value}".split()]


@pytest.mark.filterwarnings("ignore:.*resource_tracker.*")
@pytest.mark.parametrize("number", range(50))
def test_a_random_valid_combination_trains_two_steps(number: int, data: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    _, config = draw(number)
    config.data.path, config.runs = str(data), str(tmp_path)
    config.check()
    config.run()
    assert [checkpoint.step_of(path) for path in checkpoint.listed(config.folder())] == [2]


def refusal(way: str, world: int, config: Train) -> ConfigError | None:
    """Why a combination cannot be spread so, None where it can."""
    kind, *options = way.split()
    values = dict(option.removeprefix("strategy.").split("=") for option in options)
    strategy = from_dict("strategy", {"kind": kind, **{key: yaml.safe_load(text) for key, text in values.items()}})
    try:
        strategy.check(world, config.model, config.data)
        strategy.check_optimizer(config.optimizer.kind)
    except ConfigError as error:
        return error
    return None


def test_a_random_combination_can_be_spread_or_is_refused_in_a_line() -> None:
    """Copies that do not divide the ranks are always refused."""
    for number in range(8):
        _, config = draw(number)
        for way, world in SPREAD.items():
            error = refusal(way, world, config)
            assert error is None or (error.where and error.what and error.remedy and "\n" not in str(error))
        assert refusal("fsdp strategy.replicas=3", 4, config) is not None


def test_a_random_combination_trains_two_steps_on_two_ranks_in_every_way(data: Path, tmp_path: Path) -> None:
    """Those that need more processes, or another package, have tests of their own."""
    ways = [way for way, world in SPREAD.items() if world == 2 and way != "deepspeed"]
    cases = []
    for place, way in enumerate(ways):
        for number in itertools.count(place, len(ways)):
            overrides, config = draw(number, FIT)
            if refusal(way, 2, config) is None:
                break
        spread = [word for word in overrides if not word.startswith("strategy=")] + f"strategy={way}".split()
        cases.append([*COMMON, *spread, "data.batch_tokens=256", f"data.path={data}", f"runs={tmp_path / str(place)}"])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    together(Path(__file__).with_name("trained_ranks.py"), tmp_path / "cases.json", processes=2, seconds=900)
    for place, way in enumerate(ways):
        (folder,) = (tmp_path / str(place) / "nano").iterdir()
        assert [checkpoint.step_of(path) for path in checkpoint.listed(folder)] == [2], way


def options(group: str) -> list[str]:
    """The kinds and presets of a group."""
    return sorted({*groups()[group].kinds, *(path.stem for path in (CONF / group).glob("*.yaml"))})


def test_every_preset_and_kind_of_every_group_composes() -> None:
    """Those of models are built as well, by the next test."""
    composed("train", [])
    for name, entry in groups().items():
        if name in ("verb", "change", "model") or name not in Train.__dataclass_fields__:
            continue
        for option in options(name):
            made = composed("train", [f"{name}=[{option}]" if entry.many else f"{name}={option}"])
            assert getattr(made, name) is not None
    for group in ("experiment", "debug"):
        for path in (CONF / group).glob("*.yaml"):
            composed("train", [f"{group}={path.stem}"])


def test_every_model_builds_on_the_meta_device_with_the_parameters_it_counts() -> None:
    for option in options("model"):
        config = composed("train", [f"model={option}"]).model
        if (CONF / "model" / f"{option}.yaml").exists():
            config.vocabulary = config.vocabulary or 4096
            config.context = config.context or 256
            with torch.device("meta"):
                net = config.build()
            assert sum(parameter.numel() for parameter in net.parameters()) == config.parameters()["total"]


def test_every_schedule_starts_above_zero_and_stays_within_one() -> None:
    for kind in groups()["schedule"].kinds:
        schedule = composed("train", [f"schedule={kind}"]).schedule
        total = Progress(100, 800, 8000)
        factors = [schedule.factor(Progress(step, step * 8, step * 80), total) for step in range(1, 101)]
        assert factors[0] > 0
        assert max(factors) == 1
        assert min(factors) >= 0
