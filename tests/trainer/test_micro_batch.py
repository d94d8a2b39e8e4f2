"""Laws of `data.micro_batch=auto`: what is found fits every rank, is the best of what could be, and leaves no trace."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import together

from groundup.core.errors import ConfigError
from groundup.core.memory import share_of_memory
from groundup.trainer.micro_batch import FILE
from groundup.trainer.sizes import MARGIN, Search, Tried, fastest, most

sys.path.insert(0, str(Path(__file__).parent))
from trained_ranks import composed, train

SCRIPT = Path(__file__).with_name("trained_ranks.py")
SHAPE = "model.layers=2 model.width=16 model.heads=2 data.context=16 data.batch_tokens=256 data.held_out_tokens=64"
COMMON = [
    *SHAPE.split(),
    "objective=limited",
    "tokens=768",
    "callback=[checkpoint,ema]",
    "logger=csv",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.validate_every=null",
    "trainer.log_every=1",
]


pytestmark = pytest.mark.usefixtures("one_thread")


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def searched(search: Search, device) -> tuple[int | None, list[int]]:
    """What is found on a device, and what was tried there."""
    asked: list[int] = []
    try:
        size = next(search)
        while True:
            asked.append(size)
            size = search.send(device(size))
    except StopIteration as end:
        return end.value, asked


@given(number=st.integers(1, 600), limit=st.integers(0, 700), told=st.booleans(), base=st.floats(0, 0.5))
def test_the_largest_size_that_fits_is_found_in_few_tries(number: int, limit: int, told: bool, base: float) -> None:
    """Whether memory is measured (along a line, of which the margin stays) or only runs out."""

    def device(rows: int) -> Tried | None:
        share = base + (1 - MARGIN - base) * rows / (limit + 0.5) if told else 0.0
        return Tried(rows, 1.0, share) if share <= 1 and rows <= limit * (2 if told else 1) else None

    found, asked = searched(most(divisors(number)), device)
    assert found == max((size for size in divisors(number) if size <= limit), default=None)
    assert len(asked) <= 2 * len(divisors(number)).bit_length() + number.bit_length()
    if told:  # what two sizes show not to fit is not tried
        assert sum(size > limit for size in asked) <= 2


@given(number=st.integers(1, 600), peak=st.integers(1, 600))
def test_of_what_computes_fastest_the_smallest_is_found(number: int, peak: int) -> None:
    found, asked = searched(fastest(divisors(number)), lambda rows: Tried(rows, max(1.0, peak / rows), 0.0))
    speed = {rows: min(1.0, rows / peak) for rows in asked}
    assert found == min(rows for rows in asked if speed[rows] >= 0.97 * max(speed.values()))
    assert asked[-1] == number or max(speed.values()) == 1.0


def test_on_a_processor_nothing_is_tried_that_memory_would_not_hold() -> None:
    found, asked = searched(fastest(divisors(64)), lambda rows: Tried(rows, 1 / rows, 0.5 + rows / 100))
    assert (found, asked) == (32, [1, 2, 4, 8, 16, 32])
    found, asked = searched(fastest(divisors(64)), lambda rows: Tried(rows, 1 / rows, 0.0) if rows < 8 else None)
    assert (found, asked) == (4, [1, 2, 4, 8])


def test_this_process_has_some_of_the_memory_and_more_where_others_share_what_is_free() -> None:
    assert 0 < share_of_memory(1) < share_of_memory(2) < 1


def case(data: Path, runs: Path, *more: str) -> list[str]:
    return [*COMMON, f"data.path={data}", f"runs={runs}", *more]


def folder_of(runs: Path) -> Path:
    (found,) = (runs / "nano").iterdir()
    return found


def weights(runs: Path) -> str:
    return hashlib.sha256((folder_of(runs) / "weights.safetensors").read_bytes()).hexdigest()


def first_loss(runs: Path) -> float:
    with (folder_of(runs) / "metrics.csv").open() as file:
        return next(float(row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss")


def rows(runs: Path) -> list[int]:
    return [entry["rows"] for entry in json.loads((folder_of(runs) / FILE).read_text())]


def test_a_run_that_found_its_micro_batch_is_bitwise_the_run_that_was_told_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = ["data.micro_batch=auto", "objective.limit=4", "model.dropout=0.1"]
    train([case(data, tmp_path / "auto", *auto, "stop_steps=1")])
    assert "sequences of a step on each rank, the fastest of those tried" in capsys.readouterr().out
    (found,) = rows(tmp_path / "auto")
    assert found <= 4
    before = (folder_of(tmp_path / "auto") / FILE).read_bytes()
    train([case(data, tmp_path / "auto", *auto, "objective.limit=4")])  # goes on, and does not search
    assert (folder_of(tmp_path / "auto") / FILE).read_bytes() == before
    train([case(data, tmp_path / "told", *auto, f"data.micro_batch={found}")])
    assert weights(tmp_path / "auto") == weights(tmp_path / "told")
    report = json.loads((folder_of(tmp_path / "auto") / "report.json").read_text())
    assert report["environment"]["micro-batch"].startswith(f"{found} sequences on each rank, ")


def test_a_network_that_fits_nowhere_and_strategies_that_cannot_try_are_refused_in_a_line(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not find memory for a single sequence; spread the network"):
        train([case(data, tmp_path, "data.micro_batch=auto", "objective.limit=0")])
    for wrong in ("many", "0", "-1"):
        with pytest.raises(ConfigError, match=f"data.micro_batch={wrong}: must be a number of at least 1, or auto"):
            composed("train", f"data.micro_batch={wrong}")
    for strategy, why in (("pipeline", "its schedule"), ("deepspeed", "DeepSpeed"), ("async_sgd", "its workers")):
        config = composed("train", f"data.path={data}", "data.micro_batch=auto", f"strategy={strategy}")
        with pytest.raises(ConfigError, match=f"auto: cannot be found with strategy={strategy}: {why}"):
            config._check_layout(config)


def test_ranks_take_the_most_that_fits_all_of_them_in_every_layout(data: Path, tmp_path: Path) -> None:
    """It divides a rank's part of the step, and the training is, to rounding, that of any other micro-batch."""
    layouts = {"ddp": 2, "fsdp": 3, "tensor": 3, "context": 3}  # on the second rank, ddp has room for one less
    twelve = ["data.batch_tokens=192", "objective.limit=3", "stop_steps=1"]  # four do not fit: three are tried anew
    auto = ["data.micro_batch=auto", *twelve]
    cases = [
        case(data, tmp_path / kind, f"strategy={kind}", *auto, *(["objective.fewer=1"] if kind == "ddp" else []))
        for kind in layouts
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    together(SCRIPT, tmp_path / "cases.json", processes=2, seconds=900)
    train([case(data, tmp_path / "single", "data.micro_batch=1", *twelve)])
    for kind, found in layouts.items():
        assert rows(tmp_path / kind) == [found]
        assert first_loss(tmp_path / kind) == pytest.approx(first_loss(tmp_path / "single"), abs=1e-5)
