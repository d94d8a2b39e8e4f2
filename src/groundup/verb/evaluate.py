"""The evaluate verb: a run, checkpoint or model folder in, one report out; or its text in the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import groundup.evaluation.config
import groundup.strategy.config
import groundup.strategy.mesh_config
import groundup.trainer.config  # noqa: F401  # these register the groups
from groundup.core import ranks
from groundup.core.config import MISSING, option, schema
from groundup.core.errors import ConfigError, StorageError, UserError, require
from groundup.core.memory import keep_freed_memory
from groundup.trainer.find import find

REQUIREMENTS = "requirements-evaluate.txt"


@schema("verb", "evaluate")
class Evaluate:
    """Measure a model: held-out bits per byte by domain, tasks of lm-eval, samples; or let it write (task=sample)."""

    task: str = option("report", "what to do", choices=("report", "sample"))
    run: str = option(
        "runs/nano", "a run's folder, one of its checkpoints/step-N, a model folder, or what holds one run"
    )
    data_path: str | None = option(None, "data folder for held-out text; null: the one it was trained on")
    out: str | None = option(None, "folder of the report; null: evaluation/ in the run's folder")
    evaluation: Any = option(MISSING, "the tasks, and how they are asked")
    prompt: str = option("", "task=sample: what the model goes on from")
    prompts: list[str] = option(["In the beginning", "And he said to them,", "The"], "of the report's samples")
    tokens: int = option(200, "tokens of each sample at most", at_least=1)
    temperature: float = option(0.8, "how freely it chooses; 0: always the likeliest token", at_least=0)
    top_k: int | None = option(None, "choose among so many likeliest tokens; null: all", at_least=1)
    top_p: float | None = option(None, "choose among the likeliest with this summed probability", above=0, at_most=1)
    min_p: float | None = option(
        None, "choose among tokens at least this times as likely as the likeliest", above=0, at_most=1
    )
    repetition_penalty: float = option(
        1.0, "above 1: tokens that stand in the text already are less likely; 1: as the model says", above=0
    )
    beams: int = option(1, "above 1: search with so many for the likeliest text; with temperature=0", at_least=1)
    length_penalty: float = option(
        1.0, "beams: their log-probability is divided by their length to this power", at_least=-10, at_most=10
    )
    seed: int = option(0, "of the samples", at_least=0)
    strategy: Any = option(MISSING, "how the net is spread over devices")
    trainer: Any = option(MISSING, "device, precision")
    plugins: list[str] = option([], "modules to import first, which register components of their own")

    def check(self) -> None:
        """Find what cannot work before anything is computed or written.

        Raises:
            UserError: with the key or file and the remedy.
        """
        self._check_beams()
        if self.task == "report" and self.evaluation.tasks:
            require("lm_eval", "evaluation.tasks", REQUIREMENTS)
        if self.task == "sample" and ranks.world() > 1:
            raise ConfigError("task=sample", f"writes in one process, not in {ranks.world()}", "start it alone")
        if not getattr(self.strategy, "answers", True):
            raise ConfigError(
                f"strategy={self.strategy.kind}",
                "leaves a part of the network on each rank, and tasks and samples ask the whole",
                "use strategy=fsdp or tensor",
            )
        folder = find(self.run)
        if self.data_path is not None and not Path(self.data_path).is_dir() and "://" not in self.data_path:
            raise ConfigError(f"data_path={self.data_path}", "is not a folder", "give a folder that prepare.py wrote")
        place = self.folder(folder)
        while not place.exists():
            place = place.parent
        if self.task == "report" and not os.access(place, os.W_OK | os.X_OK):
            raise StorageError(f"out={self.folder(folder)}", f"{place} cannot be written", "give another out=FOLDER")
        keep_freed_memory()  # before torch is imported, which takes seconds: what needs none comes first
        from groundup.trainer.device import device_of

        device_of(self.trainer)

    def _check_beams(self) -> None:
        if self.beams == 1:
            if self.length_penalty != 1:
                raise ConfigError(
                    f"length_penalty={self.length_penalty}",
                    "has no meaning with beams=1",
                    "leave it out or set beams=N above 1",
                )
            return
        if self.temperature != 0:
            what = f"search for the likeliest text, and temperature={self.temperature} draws one"
            raise ConfigError(f"beams={self.beams}", what, "set temperature=0 or beams=1")
        for name in ("top_k", "top_p", "min_p"):
            if getattr(self, name) is not None:
                what = f"has no meaning with beams={self.beams}"
                raise ConfigError(f"{name}={getattr(self, name)}", what, "leave it null or set beams=1")

    def folder(self, found: Path) -> Path:
        """Where the report goes: each checkpoint has one of its own."""
        if self.out is not None:
            return Path(self.out).expanduser()
        found = found.resolve()
        if found.name.startswith("step-") and found.parent.name == "checkpoints":
            return found.parents[1] / "evaluation" / found.name
        return found / "evaluation"

    def do(self) -> None:
        """Do what `task` says.

        Raises:
            UserError: from the folder; or, once the report is written, when a task failed.
        """
        from groundup.trainer.console import say
        from groundup.trainer.opening import open_run

        path = find(self.run)
        opened = open_run(path, say if self.task == "report" else _aside, self.data_path)
        if self.task == "sample":
            from groundup.trainer.measure import write_text

            write_text(opened, self)
            return
        from groundup.trainer.measure import measure, write_report

        figures = measure(opened, self, self.folder(path))
        if ranks.rank() != 0:
            return
        say(f"report: {write_report(figures, self.folder(path))}")
        failed = list(dict.fromkeys(result["task"] for result in figures["results"] if result.get("error")))
        if failed:  # each reason was told as it came
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            what = f"failed{more}, as said above"
            raise UserError(f"evaluation.tasks={failed[0]}", what, "the report has the reasons and all the rest")


def _aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
