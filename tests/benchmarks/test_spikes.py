"""Laws of the record of spikes: what counts as a case and as recovered, and that trouble with data stays with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import spikes  # noqa: E402
import troubles  # noqa: E402

from groundup.core.config import groups  # noqa: E402
from groundup.data.step import Batch  # noqa: E402

sys.path.remove(BENCHMARKS)
groups()["callback"].kinds.pop("trouble")  # no option of other tests


def row(what: str, seed: int, policy: str | None, end: float | None) -> dict[str, Any]:
    """A finished run."""
    return {"what": what, "seed": seed, "policy": policy, "bits_per_byte": end}


def test_a_case_counts_if_nobody_helped_and_it_went_wrong_and_is_recovered_near_the_clean_run() -> None:
    clean = [row("none", seed, "escalate", 2.0) for seed in range(4)]
    unhelped = [
        row("rate", 0, None, 2.2),
        row("rate", 1, None, None),
        row("rate", 2, None, 2.05),
        row("poison", 3, None, 2.2),
    ]
    helped = [
        row("rate", 0, "escalate", 2.019),
        row("rate", 1, "escalate", None),
        row("rate", 2, "escalate", 2.0),
        row("poison", 3, "escalate", 2.021),
    ]
    found = spikes.recovered([*clean, *unhelped, *helped], "escalate", 0.0)
    assert (found["recovered"], found["cases"]) == (1, 3)
    assert found["by_kind"]["rate"] == "1 of 2"
    wide = spikes.recovered([*clean, *unhelped, *helped], "escalate", 0.011)
    assert wide["recovered"] == 2


def test_alarms_of_all_clean_runs_are_added_up() -> None:
    rows = [{"false_alarms": {"steps": 10, "escalate": 0}}, {}, {"false_alarms": {"steps": 20, "escalate": 1}}]
    assert spikes.false_alarms(rows) == {"steps": 30, "escalate": 1}


def test_a_record_keeps_the_rows_of_runs_that_would_be_made_as_they_were(tmp_path: Path, monkeypatch) -> None:
    kept = [{"what": "rate", "seed": 1, "policy": None}, {"what": "poison", "seed": 1, "policy": "escalate"}]
    record = tmp_path / "spikes.jsonl"
    for case in kept:
        spikes.peers.append(record, {**case, "code": spikes.code(case)})
    assert [{name: row[name] for name in spikes.CASE} for row in spikes.current(record)] == kept
    planned = spikes.trouble
    monkeypatch.setattr(
        spikes, "trouble", lambda what, seed: [*planned(what, seed), *(["tokens=1"] if what == "poison" else [])]
    )
    assert [row["what"] for row in spikes.current(record)] == ["rate"]


def test_a_record_has_every_case_once_and_a_drawn_seed_those_that_claims_rest_on() -> None:
    every = [tuple(case.values()) for case in spikes.cases(spikes.SEEDS, spikes.QUIET, None)]
    assert len(every) == len(set(every)) == 20 * (1 + 4 * 4) + spikes.QUIET
    again = list(spikes.cases(20, 0, 7))
    assert {case["seed"] for case in again} == {7}
    assert len(again) == 9


@pytest.mark.parametrize("first", [32, 48])
def test_poison_stays_with_its_samples(first: int) -> None:
    trouble = troubles.Trouble(troubles.Options(what="poison", first=3, steps=1))
    clean = torch.arange(32).view(2, 16)
    batch = Batch(clean.clone(), clean.clone())
    step = SimpleNamespace(step=99, samples=16, first_sample=first, micro_batches=[batch])
    trouble.on_train_batch_start(SimpleNamespace(), SimpleNamespace(), step, 0)
    assert torch.equal(batch.tokens_BT, clean) == (first != 32)
    assert torch.equal(batch.targets_BT, clean) == (first != 32)
