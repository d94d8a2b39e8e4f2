"""Laws of what travels between ranks: in the weights' own numbers, or half the bytes in bf16, at bf16's own error."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from pathlib import Path

import pytest
from processes import together

from groundup.core.config import from_dict
from groundup.verb.prepare import Prepare

sys.path.insert(0, str(Path(__file__).parent))
from mesh_runs import composed, recipe

SCRIPT = Path(__file__).with_name("travel_ranks.py")
RUN = (
    "model.layers=1 model.width=16 model.heads=2 model.experts=2 model.embedding_norm=false data.context=16 "
    "data.batch_tokens=64 data.micro_batch=2 data.held_out_tokens=256 tokens=320 stop_steps=4 optimizer=adamw "
    "trainer.compile=false trainer.accelerator=cpu trainer.precision=fp32 trainer.validate_every=null "
    "trainer.log_every=1 callback=[] logger=csv schedule=constant model.init=gaussian optimizer.rate=1e-2"
)
WAYS = {
    "ddp": "strategy=ddp",
    "fsdp": "strategy=fsdp",
    "gathered": "strategy=fsdp strategy.gather=bf16",
    "copies": "strategy=mesh",
    "experts": "strategy=mesh strategy.experts=2",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of runs of two ranks in each way, and what rank 0 handed over."""
    folder = tmp_path_factory.mktemp("travel")
    config: Prepare = composed("prepare", "source=[topics]", "tokenizer=bytes", f"path={folder}/data")
    config.check()
    config.run()
    recipes = {
        f"{name}-{travel}": recipe(
            folder, f"{name}-{travel}", [*f"{RUN} {way} strategy.travel={travel}".split(), f"data.path={folder}/data"]
        )
        for name, way in WAYS.items()
        for travel in ("weights", "bf16")
    }
    (folder / "recipes.pickle").write_bytes(pickle.dumps(recipes))
    together(SCRIPT, folder, processes=2)
    return folder, json.loads((folder / "handed-0.json").read_text())


def losses(folder):
    (found,) = folder.glob("nano/*/metrics.csv")
    with found.open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]


@pytest.mark.parametrize(
    ("way", "collectives"),
    [
        ("ddp", ["all_reduce"]),
        ("fsdp", ["reduce_scatter"]),
        ("gathered", ["reduce_scatter"]),
        ("copies", ["all_reduce"]),
        ("experts", ["all_reduce", "all_to_all"]),
    ],
)
def test_gradients_and_what_goes_to_experts_travel_in_half_the_bytes_where_asked(ran, way, collectives):
    _, handed = ran
    full, half = handed[f"{way}-weights"], handed[f"{way}-bf16"]
    for name in collectives:
        assert half[f"{name} bfloat16"] == full[f"{name} float32"] / 2
        assert f"{name} bfloat16" not in full
        assert f"{name} float32" not in half


def test_weights_are_gathered_in_half_the_bytes_where_asked_whatever_gradients_do(ran):
    _, handed = ran
    for travel in ("weights", "bf16"):
        whole, half = handed[f"fsdp-{travel}"], handed[f"gathered-{travel}"]
        assert half["all_gather bfloat16"] == whole["all_gather float32"] / 2
        assert "all_gather float32" not in half


@pytest.mark.parametrize("way", WAYS)
def test_losses_stay_within_the_error_of_bf16(ran, way):
    folder, _ = ran
    single, half = losses(folder / "ddp-weights"), losses(folder / f"{way}-bf16")
    assert len(single) == 4
    assert half == pytest.approx(single, rel=2**-8)
    assert half != single


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tensor", "pipeline", "context", "mesh", "local_sgd"])
def test_what_travels_is_the_weights_own_if_nothing_is_said(kind):
    assert from_dict("strategy", {"kind": kind}).travel == "weights"
