"""Laws of sharded nets: whatever the layout, a real run computes what one process does, and goes on from any other."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import start, together

from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import from_dict
from groundup.core.errors import ConfigError
from groundup.verb.prepare import Prepare

sys.path.insert(0, str(Path(__file__).parent))
from mesh_runs import ROOT, composed, recipe, train

SCRIPT = Path(__file__).with_name("mesh_ranks.py")
COMMON = [
    "model.layers=2 model.width=32 model.heads=4 model.qk_norm=false model.embedding_norm=false model.gain=true",
    "data.context=32 data.batch_tokens=256 data.micro_batch=2 data.held_out_tokens=256 tokens=1024 stop_steps=3",
    "trainer.compile=false trainer.accelerator=cpu trainer.precision=fp64 trainer.validate_every=2 trainer.log_every=1",
    "callback=[checkpoint,ema,witness] logger=csv objective.clip=0.1",
]
WRITES = "callback=[checkpoint,ema,witness,samples] callback.samples.tokens=5 callback.samples.every=2"
MODELS = {
    "gpt2": "model.positions=learned model.norm=layer model.bias=true model.activation=gelu model.tied=true "
    "model.init=gpt2 optimizer=adamw stop_steps=null",
    "llama": "model.kv_heads=2 model.activation=swiglu model.init=gaussian optimizer=muon optimizer.cautious=true "
    "optimizer.weight_decay=0.5 optimizer.l1=0.01",
    "experts": "model.activation=swiglu model.experts=4 model.init=gaussian objective.balance=0.1 "
    "objective.router_z=0.01 optimizer=lion",
    "t5": "objective=span model=encoder_decoder model.encoder_layers=1 model.positions=t5 model.init=gaussian "
    "model.tied=true optimizer=muon",
}

APART = "strategy.experts=2 data.micro_batch=1"
HALF = "stop_steps=2"
GRIDS = {
    "gpt2 from 2 x 1 x 2 to one": ("gpt2", f"strategy.pipeline=2 strategy.tensor=2 {HALF}"),
    "llama from one to 2 x 1 x 2": ("llama", "strategy.pipeline=2 strategy.tensor=2 strategy.recompute=full"),
    "llama in parts over 1 x 2 x 2": ("llama-half", f"strategy.tensor=2 strategy.shard=true {HALF}"),
    "t5 over 1 x 2 x 2": ("t5-half", f"strategy.tensor=2 strategy.recompute=selective {HALF}"),
    "experts from copies on 2 x 2 to parts": ("experts", f"{APART} strategy.shard=true"),
    "experts from stages on 2 x 2 to one": ("experts", f"strategy.experts=2 strategy.pipeline=2 {HALF}"),
}
"""Runs over pipeline x data x tensor ranks, and of experts over data ranks: as which run of one process, and how."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Python's documentation topics as bytes."""
    folder = tmp_path_factory.mktemp("data") / "topics"
    config: Prepare = composed("prepare", "source=[topics]", "tokenizer=bytes", f"path={folder}")
    config.check()
    config.run()
    return folder


def case(data, name, model, *more, writes=WRITES):
    """A run: its name and overrides, of which what comes again counts last."""
    words = " ".join([*COMMON, writes, MODELS[model.removesuffix("-half")], *more]).split()
    return name, [*{word.partition("=")[0]: word for word in words}.values(), f"data.path={data}"]


def launched(runs, processes, cases):
    """Train the cases in turn in one group of processes."""
    (runs / "recipes.pickle").write_bytes(pickle.dumps([recipe(runs, name, how) for name, how in cases]))
    together(SCRIPT, runs, processes=processes)
    return runs


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """Every model trained by one process, whole and half-way."""
    runs = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(runs, [case(data, model, model, "strategy=single") for model in MODELS])
    train(runs, [case(data, f"{model}-half", model, f"strategy=single {HALF}") for model in MODELS])
    torch.set_num_threads(threads)
    return runs


@pytest.fixture(scope="module")
def two(data, one, tmp_path_factory):
    """Two ranks."""
    runs = tmp_path_factory.mktemp("two")
    shutil.copytree(one / "llama-half", runs / "llama")
    cases = [
        case(data, "gpt2", "gpt2", "strategy=fsdp data.micro_batch=1"),
        case(data, "again", "gpt2", f"strategy=fsdp data.micro_batch=1 {HALF}"),
        case(data, "again", "gpt2", "strategy=fsdp data.micro_batch=1"),
        case(data, "llama", "llama", "strategy=fsdp strategy.reshard=false"),
        case(data, "experts", "experts", f"strategy=ddp data.micro_batch=8 {HALF}"),
        case(data, "experts", "experts", "strategy=fsdp strategy.recompute=full data.micro_batch=8"),
        case(data, "t5", "t5", f"strategy=fsdp {HALF}"),
        case(data, "gpt2-context", "gpt2", f"strategy=fsdp strategy.context=2 {HALF}"),
        case(data, "experts-context", "experts", f"strategy=context data.micro_batch=4 {HALF}"),
        case(data, "experts-apart", "experts", f"strategy=mesh strategy.experts=2 data.micro_batch=4 {HALF}"),
        case(data, "experts-parts", "experts", f"strategy=fsdp strategy.experts=2 strategy.recompute=full {HALF}"),
    ]
    return launched(runs, 2, cases)


@pytest.fixture(scope="module")
def four(data, one, two, tmp_path_factory):
    """Four ranks, all of which hold parts, or two copies of two parts; and such as share layers."""
    runs = tmp_path_factory.mktemp("four")
    shutil.copytree(two / "t5", runs / "t5")
    often = "strategy=fsdp strategy.sum_every=true"
    cases = [
        case(data, "gpt2", "gpt2", "strategy=fsdp strategy.replicas=2 data.micro_batch=4"),
        case(data, "llama", "llama", f"strategy=fsdp {HALF}"),
        case(
            data, "experts", "experts", f"{often} strategy.replicas=2 strategy.recompute=selective data.micro_batch=1"
        ),
        case(data, "t5", "t5", "strategy=fsdp"),
    ]
    shutil.copytree(one / "llama-half", runs / "llama from one to 2 x 1 x 2")
    copies = f"strategy=mesh {APART} strategy.recompute=selective {HALF}"
    cases += [case(data, "experts from copies on 2 x 2 to parts", "experts", copies, writes="")]
    cases += [case(data, name, model, "strategy=mesh", how, writes="") for name, (model, how) in GRIDS.items()]
    launched(runs, 4, cases)
    ended = [("llama", WRITES), *((name, "") for name in GRIDS if name.endswith("to one"))]
    train(runs, [case(data, name, name.split()[0], "strategy=single", writes=how) for name, how in ended])
    return runs


def folder_of(run):
    (found,) = (run / "nano").iterdir()
    return found


def rows(run):
    """The log, but for the speed."""
    with (folder_of(run) / "metrics.csv").open() as file:
        found = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    return {key: value for key, value in found.items() if not key[1].startswith("speed/")}


def end(run):
    """Everything in the last checkpoint, whole."""
    return read_all(checkpoint.listed(folder_of(run))[-1])


def assert_same_run(found, wanted, tolerance=1e-10):
    mine, theirs = rows(found), rows(wanted)
    assert mine.keys() == theirs.keys()
    assert {"train/loss", "train/gradient_norm", "held_out/all"} <= {name for _, name in mine}
    for key, value in theirs.items():
        assert abs(mine[key] - value) <= tolerance, key
    mine, theirs = end(found), end(wanted)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("model", ["gpt2", "llama", "experts"])
def test_two_ranks_that_hold_halves_train_what_one_process_does(two, one, model):
    """llama goes on from a run of one process, experts from one of copies."""
    assert_same_run(two / model, one / model)


@pytest.mark.parametrize("model", ["gpt2", "experts"])
def test_two_ranks_that_share_positions_train_what_one_process_does_and_count_held_out_text_once(two, one, model):
    assert_same_run(two / f"{model}-context", one / f"{model}-half")


@pytest.mark.parametrize("how", ["apart", "parts"])
def test_two_ranks_that_share_experts_out_train_what_one_process_does(two, one, how):
    assert_same_run(two / f"experts-{how}", one / "experts-half")


@pytest.mark.parametrize("model", MODELS)
def test_four_ranks_train_what_one_process_does(four, one, model):
    """llama ends in one process, t5 began on two ranks; gpt2 and experts have two copies."""
    assert_same_run(four / model, one / model)


@pytest.mark.parametrize("name", GRIDS)
def test_ranks_that_share_layers_and_stages_train_what_one_process_does(four, one, name):
    """In one process, after others in which the same ranks met for something else, with all of them or some.

    Of checkpoints of other layouts, some are gone on from there, and some of theirs in one process.
    """
    assert_same_run(four / name, one / GRIDS[name][0])


def test_a_sharded_run_stopped_and_resumed_is_bitwise_the_run_that_was_not(two):
    assert_same_run(two / "again", two / "gpt2", tolerance=0)


def test_weights_begin_bitwise_alike_in_every_layout(one, two, four):
    for runs, models in ((two, ("gpt2", "t5", "experts-apart", "experts-parts")), (four, ("gpt2", "llama", "experts"))):
        for model in models:
            wanted = torch.load(one / f"{model.partition('-')[0]}.begun.pt", weights_only=True)
            found = torch.load(runs / f"{model}.begun.pt", weights_only=True)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], value) for name, value in wanted.items()), model


@pytest.mark.parametrize(("name", "ranks", "parts"), [("two", 2, 2), ("four", 4, 2)])
def test_a_rank_holds_its_share_of_weights_gradients_and_moments(one, name, ranks, parts, request):
    runs = request.getfixturevalue(name)
    numbers = sum(value.numel() for value in torch.load(one / "gpt2.begun.pt", weights_only=True).values())
    for rank in range(ranks):
        held = json.loads((runs / f"gpt2.bytes-{rank}.json").read_text())
        wanted = {"parameters": 8 * numbers, "gradients": 8 * numbers, "optimizer": 2 * 8 * numbers}
        assert held == {key: pytest.approx(value / parts, rel=0.05) for key, value in wanted.items()}


def test_the_finished_weights_are_the_last_averages_whole(four):
    from groundup.model.load import load

    folder, saved = folder_of(four / "gpt2"), end(four / "gpt2")
    for name, value in load(folder).state_dict().items():
        assert torch.equal(value, saved[f"callback/ema/model.{name}"])


def test_copies_that_do_not_share_the_processes_evenly_end_each_with_one_line_and_code_two(data, tmp_path):
    overrides = " ".join([*COMMON[:3], "strategy=fsdp", "strategy.replicas=3"]).split()
    overrides += [f"data.path={data}", f"runs={tmp_path}"]
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}
        started = start(ROOT / "train.py", overrides, {**place, "MASTER_ADDR": "127.0.0.1"})
        assert started.wait(60) == 2
        (told,) = [line for line in started.output().splitlines() if line.strip()]
        assert (
            "strategy.replicas=3: does not divide the 2 processes that see different tokens; choose from 1, 2" in told
        )


@pytest.mark.parametrize("model", MODELS)
def test_all_ranks_write_samples_together_and_one_keeps_them(one, four, model):
    wanted, found = ((folder_of(runs / model) / "samples.jsonl").read_text() for runs in (one, four))
    assert found == wanted
    end = 4 if model == "gpt2" else 3
    assert [json.loads(line)["step"] for line in found.splitlines()] == [2, 2, 2, end, end, end]


@pytest.mark.parametrize("name", ["two", "four"])
def test_a_cut_net_answers_by_any_method_what_the_whole_one_does_also_when_weights_have_changed(name, request):
    apart = json.loads((request.getfixturevalue(name) / "asked.json").read_text())
    assert len(apart) == 9
    assert max(apart.values()) < 1e-12, apart


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": 2, "shard": True}, r"shard=true: does not go with strategy.pipeline=2: .*; set strategy.shard="),
        ({"replicas": 2, "tensor": 2}, r"replicas=2: needs strategy.shard=true; "),
        ({"schedule": "gpipe", "tensor": 2}, r"schedule=gpipe: needs strategy.pipeline of at least 2; "),
        ({"sequence": False, "pipeline": 2}, r"sequence=False: needs strategy.tensor of at least 2; "),
        (
            {"tensor": 3},
            r"strategy=mesh: needs a multiple of 1 x 1 x 3 processes, pipeline x context x tensor, and there are 8; ",
        ),
    ],
)
def test_what_does_not_fit_on_a_grid_is_told_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict("strategy", {"kind": "mesh", **options}).grid(8)
    assert "\n" not in str(caught.value)


def test_ranks_beyond_pipeline_and_tensor_read_other_samples():
    options = from_dict("strategy", {"kind": "mesh", "pipeline": 2, "tensor": 2})
    assert [options.share(8, rank) for rank in range(8)] == [(0, 2), (0, 2), (1, 2), (1, 2)] * 2


@pytest.mark.parametrize(
    ("world", "how", "experts", "message"),
    [
        (2, {}, None, r"experts=2: needs a network with experts; set model.experts, or strategy.experts=1"),
        (2, {}, 3, r"experts=2: does not divide model.experts=3; choose from 1, 3"),
        (3, {}, 4, r"experts=2: does not divide the 3 processes that see different tokens; choose from 1$"),
        (4, {"shard": True, "replicas": 4}, 4, r"experts=2: does not divide the 1 processes that see different tokens"),
        (4, {"tensor": 2}, 4, r"experts=2: has no plan for strategy.tensor=2, which cuts each expert; set one of them"),
        (4, {"pipeline": 2, "schedule": "zero_bubble"}, 4, r"experts=2: has no plan for strategy.schedule=zero_bubble"),
    ],
)
def test_experts_that_cannot_be_shared_out_are_told_in_one_line(world, how, experts, message):
    network = from_dict("model", {"kind": "decoder", "layers": 2, "heads": 2, "experts": experts})
    data = SimpleNamespace(kind="shards", context=32, samples=8, rows=2)
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict("strategy", {"kind": "mesh", "experts": 2, **how}).check(world, network, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("how", "cuts"), [("apart", 1), ("parts", 2)])
def test_a_rank_holds_its_experts_and_a_copy_or_its_part_of_all_else(one, two, how, cuts):
    begun = torch.load(one / "experts.begun.pt", weights_only=True)
    banks = sum(value.numel() for value in begun.values() if value.dim() == 3)
    rest = sum(value.numel() for value in begun.values()) - banks
    for rank in range(2):
        held = json.loads((two / f"experts-{how}.bytes-{rank}.json").read_text())
        wanted = pytest.approx(8 * (rest / cuts + banks / 2), rel=0.05)
        assert [held["parameters"], held["gradients"], held["optimizer"]] == [wanted] * 3  # Lion has one moment


def test_adafactor_is_refused_where_matrices_are_cut():
    with pytest.raises(ConfigError, match="optimizer=adafactor: takes means over whole matrices"):
        from_dict("strategy", {"kind": "fsdp"}).check_optimizer("adafactor")
