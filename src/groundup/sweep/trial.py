"""One trial: a process of the same program with the trial's overrides, and what its folder says once it has ended."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundup.callback.history import METRICS, read
from groundup.core.bits import sought
from groundup.core.config import to_dict
from groundup.core.errors import StorageError, UserError
from groundup.core.files import storage_error
from groundup.sweep.config import Search
from groundup.sweep.program import Program
from groundup.sweep.space import overrides, text
from groundup.sweep.study import Ending, Study, Taken, trial_name

OUTPUT = "output.txt"
BEAT_SECONDS = 60.0


def run(program: Program, study: Study, taken: Taken, beat: Callable[[int], None]) -> Ending:
    """Run a trial to its end, or go on with one; a trial that fails is an ending like others.

    Args:
        program: what a trial runs.
        study: the trial's.
        taken: the trial.
        beat: called now and then with the tokens done so far.

    Raises:
        StorageError: this place cannot be written, which is no trial's fault.
    """
    begun = time.monotonic()
    given = trial_overrides(study.search, taken, study.folder)
    try:
        config = program.compose(given)
        config.check()
    except StorageError:
        raise
    except UserError as error:
        return Ending("failed", reason=str(error))
    folder: Path = config.folder()
    if taken.given_up is not None:
        return _pruned(study, taken.number, folder, 0.0)
    place = study.folder_of(taken.number)
    given += own_overrides(study, taken.number, config)
    try:
        with (place / OUTPUT).open("ab") as output:
            start = output.tell()
            code = _wait(program.command(given), output, taken.lock, lambda: beat(tokens_of(folder)))
    except OSError as error:
        raise storage_error(place / OUTPUT, error) from error
    seconds = time.monotonic() - begun
    if code == 0 and (folder / "report.json").exists():
        return _complete(folder, seconds)
    if code == 0 and study.given_up(taken.number) is not None:
        return _pruned(study, taken.number, folder, seconds)
    with (place / OUTPUT).open("rb") as output:
        output.seek(start)
        said = output.read().decode("utf-8", "replace")
    return Ending("failed", tokens=tokens_of(folder), seconds=seconds, reason=reason(code, said))


def trial_overrides(search: Search, taken: Taken, folder: Path) -> list[str]:
    """What makes the program's run this trial: its parameters, and a place of its own below the study's folder."""
    return [*overrides(search.space, taken.chosen), f"runs={text(str(folder))}", f"name={trial_name(taken.number)}"]


def own_overrides(study: Study, number: int, config: Any) -> list[str]:
    """What a search adds to a trial and what changes nothing in its mathematics: pruning, and the group at W&B."""
    search = study.search
    added = [
        f"logger.{name}.group={text(search.study)}" for name, logger in config.logger.items() if logger.kind == "wandb"
    ]
    if search.pruner is not None:
        every = max(1, search.pruner.every_tokens // config.data.batch_tokens)
        options = {"kind": "prune", "study": str(study.folder), "trial": number, "pruner": to_dict(search.pruner)}
        added += [f"trainer.validate_every={every}", f"+callback.prune={text(options)}"]
    return added


def tokens_of(folder: Path) -> int:
    """The tokens a run has trained on, as far as its log says."""
    series = read(folder / METRICS).get("train/tokens")
    return int(series.last or 0) if series else 0


def reason(code: int, said: str) -> str:
    """Why a process ended as it did, from its exit code and what it said."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for told in ("error: ", r"[\w.]+(Error|Exception|Exit|Interrupt)\b"):
        found = [line for line in lines if re.match(told, line)]
        if found:
            return found[-1].removeprefix("error: ")
    return f"ended with code {code}" + (f": {lines[-1]}" if lines else "")


def _wait(command: list[str], output: Any, lock: int, beat: Callable[[], None]) -> int:
    """The exit code of a command; however this process is interrupted, it leaves no trial behind that it could end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=(lock,)
    )
    try:
        while True:
            try:
                return process.wait(timeout=BEAT_SECONDS)
            except subprocess.TimeoutExpired:
                beat()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _complete(folder: Path, seconds: float) -> Ending:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    value = sought(report["held_out"]) if report["held_out"] else None
    elapsed = report["speed"].get("elapsed_seconds") or seconds
    if value is None or not math.isfinite(value):
        return Ending("failed", tokens=report["tokens"], seconds=elapsed, reason="held-out text: not a finite number")
    return Ending("complete", value, report["tokens"], elapsed)


def _pruned(study: Study, number: int, folder: Path, seconds: float) -> Ending:
    tokens = study.given_up(number)
    return Ending(
        "pruned", tokens=tokens or tokens_of(folder), seconds=seconds, reason=f"given up at {tokens:,} tokens"
    )
