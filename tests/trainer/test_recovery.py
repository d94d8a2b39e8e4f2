"""Laws of a run that mends itself, trained in this process on a tiny real corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faults
import processes
import pytest
import torch
from offering import offered

from groundup.callback import decisions, history
from groundup.callback.config import SIGNALS
from groundup.callback.config import Recovery as Options
from groundup.callback.policy import ROLL_BACK, Signals, Verdict
from groundup.callback.recovery import Recovery
from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import compose
from groundup.core.errors import ConfigError, UserError
from groundup.core.files import entry_of
from groundup.core.progress import Progress
from groundup.trainer import replay, rollback, segments
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
TINY = [
    "model.layers=2",
    "model.width=16",
    "model.heads=2",
    "model.dropout=0.1",
    "data.context=16",
    "data.batch_tokens=256",
    "data.micro_batch=8",
    "data.held_out_tokens=1024",
    "tokens=20480",
    "optimizer=adamw",
    "optimizer.rate=0.003",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.log_every=5",
    "callback.checkpoint.every=5",
]
MENDING = [
    "callback=[checkpoint,recovery,fault]",
    "callback.recovery.window=32",
    "callback.recovery.active_after=16",
    "callback.recovery.patience=4",
    "callback.recovery.margin=4",
    "callback.recovery.skip_steps=12",
    "callback.recovery.skips=1",
    "callback.recovery.sigmas=6",
]


@pytest.fixture(scope="module", autouse=True)
def fault() -> Iterator[None]:
    """A callback that does harm, as an option of callbacks for these tests; sums in one order."""
    with offered("fault", faults.Options):
        yield


def run(data: Path, runs: Path, *overrides: str, mending: bool = True) -> Path:
    """Train as train.py does; the run folder."""
    chosen = [*TINY, *(MENDING if mending else []), *overrides]
    config: Train = composed("train", f"data.path={data}", f"runs={runs}", *chosen)
    config.check()
    config.run()
    return config.folder()


def tensors(folder: Path, prefix: str = "", step: int = -1) -> dict[str, Any]:
    """What a run's checkpoint holds, as bytes; the newest one's unless a step is given."""
    path = checkpoint.listed(folder)[-1] if step < 0 else checkpoint.path_of(folder, step)
    return {name: value.numpy().tobytes() for name, value in read_all(path).items() if name.startswith(prefix)}


def held_out(folder: Path) -> float:
    """Bits per byte at the end."""
    found: float = json.loads((folder / "report.json").read_text())["held_out"]["all"]
    return found


@pytest.fixture(scope="module")
def clean(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, which nobody watches."""
    return run(data, tmp_path_factory.mktemp("clean"), "callback=[checkpoint]", mending=False)


SPIKE = ("callback.fault.what=rate", "callback.fault.first=42", "callback.fault.steps=5")


@pytest.fixture(scope="module")
def mended(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rate is fifty times too high for five steps."""
    return run(data, tmp_path_factory.mktemp("mended"), *SPIKE)


@pytest.mark.parametrize("what", ["gradient", "activation"])
def test_a_step_that_is_not_finite_leaves_all_as_it_was_and_is_traced(what: str, data: Path, tmp_path: Path) -> None:
    folder = run(
        data,
        tmp_path,
        f"callback.fault.what={what}",
        "callback.fault.first=7",
        "callback.checkpoint.every=1",
        "callback.checkpoint.keep_latest=9",
        "stop_steps=9",
    )
    for prefix in ("nets/", "optimizer/"):
        assert tensors(folder, prefix, 7) == tensors(folder, prefix, 6) != tensors(folder, prefix, 8)
    (made,) = decisions.read(folder)
    assert (made.step, made.action, made.attempt) == (7, "skip", 1)
    assert made.evidence["samples"] == [96, 112]
    part = "output of model.trunk.blocks.1" if what == "activation" else "gradient of model.trunk.blocks.1."
    assert made.evidence["not_finite"].startswith(part)
    assert history.read(folder / "metrics.csv")["train/skipped"].steps == [7]


def test_a_spike_is_gone_back_from_and_the_run_ends_as_well_as_if_it_had_not_been(mended: Path, clean: Path) -> None:
    made = decisions.read(mended)
    (back,) = (decision for decision in made if decision.goes_back)
    assert 42 < back.step <= 60
    assert back.clock is not None
    assert back.clock.steps <= back.evidence["first_sign"] - 1 - 4
    assert back.skip is not None
    assert back.skip[0] == (back.evidence["first_sign"] - 1 - 4) * 16
    assert back.skip[1] - back.skip[0] == 12 * 16
    first, second = segments.read(mended)[1]
    assert first.last == back.clock == second.first
    assert second.set == {"data.skips": [back.skip]}
    assert "spiked" in second.reason
    assert history.read(mended / SIGNALS)["loss"].steps == list(range(1, 81))
    for name in ("metrics.csv", SIGNALS):
        steps = next(iter(history.read(mended / "attempts" / "1" / name).values())).steps
        assert min(steps) > back.clock.steps
        assert max(steps) == back.step
    assert held_out(mended) == pytest.approx(held_out(clean), rel=0.03)


@pytest.mark.parametrize("every", [7, 50, 250])
def test_a_checkpoint_that_predates_a_first_sign_by_the_margin_is_always_kept(every: int) -> None:
    watch = Recovery(Options())
    kept: list[int] = []
    for step in range(1, 1001):
        watch.note(Signals(step, 3.0 + 0.01 * (step % 5), 1.0))
        if step % every == 0:
            kept.append(step)
            held = watch.holds(kept)
            kept = [one for one in kept if one in held or one in kept[-2:]]
        for margin in (100, 200):
            if step > margin + 2 * every:
                assert step - 1 - margin - every < max(one for one in kept if one <= step - 1 - margin)
    assert len(kept) <= 2 + 200 // every + 1


def at_steps(folder: Path, steps: list[int]) -> list[segments.Segment]:
    """A run folder with checkpoints of these steps, of which nothing but the place on the plan is told."""
    plan = [segments.Segment(Progress(), Progress(steps=5000, samples=5000, tokens=5000))]
    for step in steps:
        clock = Progress(steps=step, samples=step, tokens=step)
        partial = checkpoint.begin(folder, step)
        (partial / "state.json").write_text(
            json.dumps({"progress": vars(clock), "segments": segments.digest(plan, clock)})
        )
        checkpoint.commit(folder, step, {"state.json": entry_of(partial / "state.json")})
    return plan


@pytest.mark.parametrize(
    ("kept", "before", "first", "step", "taken"),
    [
        ([400, 500, 600], 550, 651, 660, 500),  # the newest that is old enough
        ([600, 650, 700], 550, 651, 710, 600),  # none is: the oldest before the first sign
        ([650, 700], 550, 641, 710, 650),  # there is none: nothing of a long run is given up for it
        ([650, 700], 300, 401, 710, None),  # the beginning is no more than twice as far
    ],
)
def test_what_is_gone_back_to(
    kept: list[int], before: int, first: int, step: int, taken: int | None, tmp_path: Path
) -> None:
    plan = at_steps(tmp_path, kept)
    found = rollback.source(tmp_path, plan, Verdict(ROLL_BACK, before=before, first=first), step)
    assert (None if found is None else checkpoint.step_of(found)) == taken


def test_a_recorded_attempt_is_decided_upon_as_it_was(mended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = next(decision for decision in decisions.read(mended) if decision.goes_back)
    options = [word.removeprefix("callback.recovery.") for word in MENDING if word.startswith("callback.recovery.")]
    assert replay.main([f"run={mended / 'attempts' / '1'}", *options]) == 0
    *_, line, total = capsys.readouterr().out.splitlines()
    assert line.startswith(f"step {back.step}: roll back: {back.why}, to step {back.evidence['first_sign'] - 5:.0f} or")
    assert total.endswith(f"on steps 1 to {back.step}")


def test_a_run_killed_once_it_has_decided_ends_bitwise_as_if_it_had_not_been(
    mended: Path, data: Path, tmp_path: Path
) -> None:
    back = next(decision for decision in decisions.read(mended) if decision.goes_back)
    assert back.clock is not None
    for when in (back.clock.steps + 1, 63):
        with pytest.raises(faults.Killed):
            run(data, tmp_path, *SPIKE, f"callback.fault.die={when}")
        folder = next((tmp_path / "nano").iterdir())
        if when < 63:  # nothing of what follows the decision was done yet
            kept = folder / "attempts" / "1"
            for name in ("metrics.csv", SIGNALS):
                given_up = (kept / name).read_text().splitlines(True)[1:]
                (folder / name).write_text((folder / name).read_text() + "".join(given_up))
            for path in (kept / "checkpoints").glob("*"):
                path.rename(folder / "checkpoints" / path.name)
            shutil.rmtree(folder / "attempts")
    assert run(data, tmp_path, *SPIKE) == folder
    assert tensors(folder) == tensors(mended)
    assert (folder / "weights.safetensors").read_bytes() == (mended / "weights.safetensors").read_bytes()
    assert decisions.read(folder) == decisions.read(mended)
    assert (folder / SIGNALS).read_text() == (mended / SIGNALS).read_text()


def test_a_run_that_spikes_wherever_it_goes_on_takes_further_measures_and_then_stops(
    data: Path, tmp_path: Path
) -> None:
    fault = ("callback.fault.what=rate", "callback.fault.first=42", "callback.fault.factor=1000")
    with pytest.raises(UserError, match=r"step \d+: .* after 3 roll-backs, 3 of them near here .* lower rate") as told:
        run(data, tmp_path, *fault, "callback.fault.attempts=9")
    assert "\n" not in str(told.value)
    folder = next((tmp_path / "nano").iterdir())
    made = [decision for decision in decisions.read(folder) if decision.action != "skip"]
    assert [decision.action for decision in made] == ["roll_back", "roll_back", "roll_back", "stop"]
    assert [(decision.rate, decision.embedding) for decision in made[:3]] == [(1, 1), (0.67, 1), (1, 0.1)]
    last = segments.read(folder)[1][-1]
    assert last.set["optimizer.rate"] == pytest.approx(0.003 * 0.67)
    assert last.set["objective.embedding_gradient"] == pytest.approx(0.1)
    assert len(last.set["data.skips"]) == 3
    assert sorted(path.name for path in (folder / "attempts").iterdir()) == ["1", "2", "3"]


def test_watching_a_clean_run_leaves_it_bitwise_as_it_is_and_goes_on_bitwise(
    clean: Path, data: Path, tmp_path: Path
) -> None:
    watch = ("callback=[checkpoint,recovery,monitor,fault]", "callback.monitor.logit_every=10")
    folder = run(data, tmp_path / "whole", *watch)
    assert decisions.read(folder) == []
    for prefix in ("nets/", "optimizer/"):
        assert tensors(folder, prefix) == tensors(clean, prefix)
    lines = (folder / "metrics.csv").read_text().splitlines(True)
    assert "".join(line for line in lines if ",monitor/" not in line) == (clean / "metrics.csv").read_text()
    run(data, tmp_path / "again", *watch, "stop_steps=33")
    again = run(data, tmp_path / "again", *watch)
    assert (again / "metrics.csv").read_text().splitlines(True) == lines
    assert tensors(again) == tensors(folder)
    logged = history.read(folder / "metrics.csv")
    assert logged["monitor/largest_logit"].steps == list(range(10, 81, 10))
    norm = dict(zip(logged["train/gradient_norm"].steps, logged["train/gradient_norm"].values, strict=True))
    for name in ("embedding_gradient_norm", "update_norm", "noise_scale", "critical_batch_tokens"):
        series = logged[f"monitor/{name}"]
        assert all(value > 0 for value in series.values[:-1])  # the last rate is zero
        assert name != "embedding_gradient_norm" or all(
            value < norm[step] for step, value in zip(series.steps, series.values, strict=True)
        )


def test_the_logged_update_norm_is_that_of_the_difference_of_two_checkpoints(data: Path, tmp_path: Path) -> None:
    keep = ("callback.checkpoint.every=1", "callback.checkpoint.keep_latest=9", "stop_steps=5")
    folder = run(data, tmp_path, "callback=[checkpoint,monitor]", *keep, mending=False)
    before, after = (read_all(checkpoint.path_of(folder, step)) for step in (4, 5))
    moved = [(after[name] - before[name]).double().square().sum() for name in after if name.startswith("nets/")]
    (logged,) = history.read(folder / "metrics.csv")["monitor/update_norm"].values
    assert logged == pytest.approx(float(torch.stack(moved).sum().sqrt()), rel=1e-5)


def test_a_strategy_whose_ranks_go_their_own_ways_cannot_be_steered(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strategy=local_sgd do not"):
        run(data, tmp_path, "strategy=local_sgd")


@pytest.mark.parametrize(("what", "wanted"), [("activation", ["skip"]), ("rate", ["skip", "roll_back"])])
def test_all_ranks_decide_alike(what: str, wanted: list[str], data: Path, tmp_path: Path) -> None:
    harm = [f"callback.fault.what={what}", *(SPIKE[1:] if what == "rate" else ["callback.fault.first=7"])]
    harm += ["callback.fault.factor=1000"] if what == "rate" else []
    rank = ["callback.fault.rank=1", "stop_steps=9"] if what == "activation" else []
    words = [f"data.path={data}", f"runs={tmp_path}", *TINY, *MENDING, *harm, *rank, "strategy=ddp"]
    watched = "callback=[checkpoint,recovery,monitor,fault]"
    processes.together(Path(__file__).with_name("recovering.py"), *words, watched, "data.micro_batch=4", processes=2)
    (folder,) = (tmp_path / "nano").iterdir()
    made = decisions.read(folder)
    assert {decision.action for decision in made} == set(wanted)
    if what == "activation":
        assert made[0].evidence["not_finite"].startswith("output of model.trunk.blocks.1")
    else:
        assert checkpoint.step_of(checkpoint.listed(folder)[-1]) == 80
    assert "monitor/noise_scale" in history.read(folder / "metrics.csv")
