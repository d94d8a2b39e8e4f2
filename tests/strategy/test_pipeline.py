"""Laws of pipelines: whatever the stages, the schedule and the micro-batches, a run is the run of one process."""

from __future__ import annotations

import csv
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from processes import together

from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import compose, from_dict
from groundup.core.errors import ConfigError
from groundup.core.layout import Grid
from groundup.data.config import Shards
from groundup.model.config import Decoder, EncoderDecoder
from groundup.strategy.mesh_config import Pipeline
from groundup.verb.prepare import Prepare
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("pipeline_ranks.py")
ON_TWO = (
    "gpt2,2",
    "llama,1,schedule=zero_bubble",
    "nano,8,schedule=gpipe",
    "rich,1",
    "rich,2,schedule=zero_bubble_v",
    "buckets,2",
    "experts,2,schedule=zero_bubble_v",
    "projected,2,schedule=interleaved",
)
ON_FOUR = (
    "gpt2,8",
    "rich,1,schedule=interleaved",
    "llama,1,schedule=zero_bubble",
    "gpt2,2,ranks=2",
    "neox,4,ranks=2,schedule=interleaved",
)
NOISY = ("nano,2,dropout=0.2", "nano,2,schedule=1f1b,dropout=0.2")
TINY = [
    "model.layers=4",
    "model.width=32",
    "model.heads=2",
    "data.context=32",
    "data.batch_tokens=512",
    "data.micro_batch=4",
    "data.held_out_tokens=2048",
    "tokens=3072",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp64",
    "trainer.validate_every=4",
    "trainer.log_every=1",
    "callback=[checkpoint,ema]",
    "callback.checkpoint.every=3",
]


def launch(folder: Path, processes: int, *tasks: str) -> list[dict[str, dict]]:
    """What each rank saw, by case."""
    together(SCRIPT, folder, *tasks, processes=processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a prepared text, Python's documentation topics as bytes."""
    folder = tmp_path_factory.mktemp("pipeline")
    config: Prepare = compose.composed(
        ROOT / "conf", "prepare", "source=[topics]", "tokenizer=bytes", f"path={folder}/data"
    )
    config.check()
    config.run()
    return folder


def train(place: Path, name: str, *overrides: str) -> str:
    return " ".join(["train", f"data.path={place}/data", f"runs={place}/{name}", *TINY, *overrides])


@pytest.fixture(scope="module")
def one(place):
    """This process alone: each model once, and a whole run."""
    spec = importlib.util.spec_from_file_location("pipeline_ranks", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders
        seen = {model: script.fit(model, "2") for model in script.MODELS}
    script.run(train(place, "whole", "strategy=single"))
    torch.set_num_threads(before)
    return seen


@pytest.fixture(scope="module")
def two(place, one):
    """Two stages: the cases, a whole run, and one that is interrupted."""
    stopped = train(place, "stopped", "strategy=pipeline", "stop_steps=3")
    return launch(
        place,
        2,
        *ON_TWO,
        *NOISY,
        train(place, "straight", "strategy=pipeline", "trainer.validate_first=true"),
        stopped,
        train(place, "resumed", f"copy={place}/stopped", "strategy=pipeline"),
    )


@pytest.fixture(scope="module")
def four(place, two):
    resumed = train(place, "to-four", f"copy={place}/stopped", "strategy=pipeline", "strategy.ranks=2")
    return launch(place, 4, *ON_FOUR, resumed)


def assert_same_training(one, ranks, case: str) -> None:
    wanted = one[case.split(",")[0]]
    held = set()
    for rank in ranks:
        found = rank[case]
        for step, alone in zip(found["loss"], wanted["loss"], strict=True):
            assert step == pytest.approx(alone, abs=1e-10, rel=0)
        assert found["held_out"] == pytest.approx(wanted["held_out"], abs=1e-10, rel=0)
        for name, weight in found["weights"].items():
            assert torch.equal(found["begin"][name], wanted["begin"][name]), name
            torch.testing.assert_close(weight, wanted["weights"][name], atol=1e-10, rtol=0)
        assert len(found["weights"]) < len(wanted["weights"])
        held |= set(found["weights"])
    assert held == set(wanted["weights"])
    assert any(not torch.equal(wanted["begin"][name], weight) for name, weight in wanted["weights"].items())


@pytest.mark.parametrize("case", ON_TWO)
def test_two_ranks_compute_what_one_process_does(one, two, case):
    assert_same_training(one, two, case)


@pytest.mark.parametrize("case", ON_FOUR)
def test_four_ranks_or_two_by_two_compute_what_one_process_does(one, four, case):
    assert_same_training(one, four, case)


def test_all_ranks_log_bitwise_the_same_numbers(two, four):
    for ranks, cases in ((two, ON_TWO), (four, ON_FOUR)):
        for case in cases:
            assert all(rank[case]["loss"] == ranks[0][case]["loss"] for rank in ranks)
            assert all(rank[case]["held_out"] == ranks[0][case]["held_out"] for rank in ranks)


def test_a_tied_matrix_stays_bitwise_the_same_at_both_ends(two):
    first, last = (rank["gpt2,2"]["weights"]["model.trunk.embedding.weight"] for rank in two)
    assert torch.equal(first, last)


def test_dropout_is_the_same_each_time(one, two):
    for rank in two:
        first, again = (rank[case] for case in NOISY)
        assert first["loss"] == again["loss"]
        assert all(torch.equal(again["weights"][name], weight) for name, weight in first["weights"].items())
        assert first["loss"] != one["nano"]["loss"]


# Whole runs


def end(place: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[tuple[str, str], float], bytes]:
    """The last checkpoint, the log and the finished weights."""
    (folder,) = (place / name / "nano").iterdir()
    with (folder / "metrics.csv").open() as file:
        log = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    return read_all(checkpoint.listed(folder)[-1]), log, (folder / "weights.safetensors").read_bytes()


def assert_same_run(place: Path, name: str) -> None:
    wanted, wanted_log, _ = end(place, "whole")
    found, log, _ = end(place, name)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-10, rtol=0)
    assert {key: log[key] for key in wanted_log} == pytest.approx(wanted_log, abs=1e-10, rel=0)


@pytest.mark.parametrize("name", ["straight", "resumed"])
def test_a_run_of_stages_is_that_of_one_process_also_when_interrupted(two, place, name):
    assert_same_run(place, name)


def test_a_run_goes_on_with_copies_of_its_stages(four, place):
    assert_same_run(place, "to-four")


def test_an_interrupted_pipeline_ends_bitwise_as_if_it_had_not_been(two, place):
    straight, resumed = end(place, "straight"), end(place, "resumed")
    assert all(torch.equal(straight[0][name], value) for name, value in resumed[0].items())
    assert {key: value for key, value in straight[1].items() if key[0] != "0"} == resumed[1]
    assert straight[2] == resumed[2]


# What cannot be


def refused(*overrides: str) -> str:
    """What check says of a run among four processes."""
    given = dict(override.split("=") for override in overrides)
    model = {"layers": 8, "context": 16, "vocabulary": 61}
    model |= {key.removeprefix("model."): value for key, value in given.items() if key.startswith("model.")}
    model["layers"] = int(model["layers"])
    data = Shards(path="data", context=16, batch_tokens=128, micro_batch=int(given.get("micro_batch", 1)))
    strategy = {key: int(value) if value.isdecimal() else value for key, value in given.items() if "." not in key}
    strategy.pop("micro_batch", None)
    with pytest.raises(ConfigError) as caught:
        kind = EncoderDecoder if given.get("model.kind") == "encoder_decoder" else Decoder
        from_dict("strategy", {"kind": "pipeline", **strategy}).check(4, kind(**model), data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.layers=6"], "model.layers=6: cannot be shared out equally to 4 stages"),
        (["schedule=interleaved", "stages_per_rank=3"], "cannot be shared out equally to 12 stages, 3 on each of 4"),
        (["ranks=3"], "needs a multiple of 3 x 1 x 1 processes, pipeline x context x tensor, and there are 4"),
        (["model.kind=encoder_decoder"], "has no plan for the layers of model.kind=encoder_decoder; set strategy=fsdp"),
        (["schedule=zero_bubble", "model.positions=t5"], "all layers share a table; set strategy.schedule=1f1b"),
        (["schedule=1f1b", "stages_per_rank=2"], "stages_per_rank=2: does not go with schedule=1f1b; set it to 1"),
        (["schedule=zero_bubble_v", "stages_per_rank=4"], "does not go with schedule=zero_bubble_v; set it to 2"),
        (["schedule=interleaved", "stages_per_rank=1"], "does not go with schedule=interleaved; set it to at least 2"),
    ],
)
def test_a_layout_that_does_not_fit_ends_in_one_line(overrides, told):
    message = refused(*overrides)
    assert told in message
    assert "\n" not in message


def test_micro_batches_that_do_not_divide_into_rounds_end_in_one_line():
    data = Shards(path="data", context=16, batch_tokens=16 * 9, micro_batch=1)
    with pytest.raises(ConfigError, match=r"makes 9 micro-batches, and strategy\.schedule=interleaved goes through"):
        Pipeline(ranks=2, schedule="interleaved").check(2, Decoder(layers=4, context=16, vocabulary=61), data)
    Pipeline(ranks=2).check(2, Decoder(layers=4, context=16, vocabulary=61), data)


def test_pipeline_ranks_are_farthest_apart():
    assert Pipeline(ranks=2).grid(6) == Grid(pipeline=2, data=3)
    with pytest.raises(ConfigError, match="this is the only process; run: torchrun --standalone --nproc-per-node=2"):
        Pipeline().grid(1)


@pytest.fixture
def one_of_two(monkeypatch):
    """What torchrun tells the first of two processes."""
    place = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["callback=[checkpoint,samples]"], "callback.samples: asks the whole network"),
        (["strategy.schedule=zero_bubble", "trainer.compile=true"], "takes gradients apart, which a compiled network"),
    ],
)
def test_what_does_not_go_with_a_pipeline_is_told_before_anything_is_read(place, one_of_two, overrides, told):
    config: Train = compose.composed(
        ROOT / "conf", "train", f"data.path={place}/data", f"runs={place}/none", *TINY, "strategy=pipeline", *overrides
    )
    with pytest.raises(ConfigError, match=told):
        config.check()


def test_leaving_out_the_samples_is_what_the_remedy_says(place, one_of_two):
    start = [f"data.path={place}/data", f"runs={place}/none", *TINY, "strategy=pipeline", "callback=default"]
    start.remove("callback=[checkpoint,ema]")
    config: Train = compose.composed(ROOT / "conf", "train", *start, "~callback.samples")
    config.check()
    assert set(config.callback) == {"throughput", "progress", "stragglers", "curves", "ema", "checkpoint"}
