"""What the tests of loosely coupled strategies share: a tiny corpus, a tiny run, and processes that train together."""

from __future__ import annotations

import csv
import json
import pickle
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launch, together

from groundup.callback.tensors import read_all
from groundup.core.config import compose
from groundup.verb import prepare, train  # noqa: F401  # these register what the verbs are made of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import asking  # noqa: E402, F401  # registers what asks a run to stop

SCRIPT = HERE / "loose_ranks.py"


class Tiny:
    """Runs of a tiny net on a tiny corpus, in float64, that only differ in what is said."""

    tokens = 128
    fixed = (
        "model=gpt2-124m",
        "model.layers=1",
        "model.width=16",
        "model.heads=2",
        "model.context=16",
        "model.vocabulary=300",
        "data.context=16",
        f"data.batch_tokens={tokens}",
        "data.micro_batch=2",
        "data.held_out_tokens=256",
        "trainer.compile=false",
        "trainer.accelerator=cpu",
        "trainer.precision=fp64",
        "trainer.validate_every=2",
        "trainer.log_every=1",
        "callback=[checkpoint]",
        "callback.checkpoint.every=1",
        "callback.checkpoint.keep_latest=100",
        "schedule=constant",
        "objective.clip=null",
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def overrides(self, name: str, steps: int, *more: str) -> list[str]:
        """The command line of a run of so many steps."""
        where = [f"data.path={self.folder}/data", f"runs={self.folder}/runs", f"name={name}"]
        return [*where, *self.fixed, f"tokens={steps * self.tokens}", *more]

    def train(self, name: str, steps: int, *more: str) -> None:
        """Train here and now."""
        config = self.composed("train", *self.overrides(name, steps, *more))
        config.check()
        config.run()

    def run(self, name: str) -> Path:
        """The folder of a run."""
        (folder,) = (self.folder / "runs" / name).iterdir()
        return folder

    def tensors(self, name: str, step: int) -> dict[str, torch.Tensor]:
        """All that a checkpoint holds."""
        return read_all(self.run(name) / "checkpoints" / f"step-{step}")

    def rows(self, name: str) -> dict[str, dict[int, float]]:
        """What was logged, by name and step."""
        found: dict[str, dict[int, float]] = {}
        with (self.run(name) / "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                found.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
        return found

    @staticmethod
    def composed(verb: str, *overrides: str) -> Any:
        """A verb's config."""
        return compose.composed(HERE.parents[1] / "conf", verb, *overrides)

    def together(self, processes: int, *runs: list[str]) -> list[int]:
        """Do runs in so many processes at once; bytes that each run handed to all-reduce."""
        self._write(runs)
        together(SCRIPT, "runs", self.folder, processes=processes)
        return json.loads((self.folder / "travelled-0.json").read_text())

    def _write(self, runs: Sequence[list[str]]) -> None:
        """Compose the runs once for all who do them: Hydra takes as long for it as such a run."""
        (self.folder / "runs.pickle").write_bytes(pickle.dumps([self.composed("train", *run) for run in runs]))

    def apart(self, processes: int, *runs: list[str]) -> list[int]:
        """Count steps and do runs in so many processes that nobody watches over; how each ended."""
        self._write(runs)
        started = launch(SCRIPT, "counts", self.folder, processes=processes)
        ends = [process.wait(240) for process in started]
        assert set(ends) <= {0, -signal.SIGKILL}, "\n".join(process.output() for process in started)
        return ends


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Python's documentation topics as bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    config = Tiny.composed("prepare", "source=[topics]", "tokenizer=bytes", f"path={folder}/data")
    config.check()
    config.run()
    return Tiny(folder)
