"""What a run is computed with, kept in its folder and held against what it goes on with; what it learns is not known.

`environment.jsonl` has a row for each start that differs from the one before: code, packages, Python, drivers, devices.
Of code that is changed and not committed, the changes stand beside it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch

import groundup
from groundup.core import ranks
from groundup.core.code import code_digest
from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_write, make_folder
from groundup.data.opening import storage_of
from groundup.shard.manifest import Manifest
from groundup.trainer.console import say
from groundup.trainer.device import described, device_of, processor

FILE = "environment.jsonl"
ROOT = Path(groundup.__file__).parents[2]
"""Of the checkout, where groundup is imported from one."""

Environment = dict[str, dict[str, str]]


def gather(accelerator: str, plugins: Iterable[str] = ()) -> Environment:
    """What this process computes with, by field (see `groundup.trainer.config.Trainer.environment`).

    Args:
        accelerator: "cpu", "cuda" or "mps".
        plugins: modules that are part of the code.
    """
    return {
        "code": {
            "digest": code_digest(plugins),
            "commit": _git("rev-parse", "HEAD").strip() or "none",
            "changes": _changes(),
        },
        "packages": dict(_packages()),
        "python": {"version": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"},
        "driver": _driver(accelerator),
        "hardware": _hardware(accelerator),
    }


@functools.cache
def _packages() -> dict[str, str]:
    """All that is installed, with versions; read once, for hundreds of files say so."""
    return dict(sorted({found.name.lower(): found.version for found in distributions() if found.name}.items()))


def summary(accelerator: str) -> dict[str, str]:
    """What a run was computed with, in the few words of a report."""
    return {
        "device": described(accelerator),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in ("groundup", "torch", "lightning", "numpy", "hydra-core")},
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run folder, of which each has its `step`, `data`, `seed` and `environment`; none if there are none.

    Raises:
        CheckpointError: one is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read ({error})", "remove it; only comparisons are lost") from None


def keep(folder: Path, row: dict[str, Any], rules: Mapping[str, str], tell: Callable[[str], None], write: bool) -> None:
    """Hold a start against the one before, and keep it where it differs.

    Args:
        folder: of the run, which exists where `write` is true.
        row: of this start: `step`, `data`, `seed`, `environment`.
        rules: "warn", "refuse" or "ignore" for each field of the environment.
        tell: takes the lines that warn.
        write: whether this process keeps it.

    Raises:
        CheckpointError: a field that may not change has changed; nothing is written.
    """
    before = rows(folder)
    if before:
        changed = differences(before[-1]["environment"], row["environment"])
        for field in changed:
            if rules.get(field) == "refuse":
                what = f"the run was computed with other {field}: {told(changed[field])}"
                remedy = f"go on with what it had, or set trainer.environment.{field}=warn"
                raise CheckpointError(str(folder), what, remedy)
        for field, found in changed.items():
            if rules.get(field, "warn") == "warn":
                tell(f"other {field} than up to step {row['step']}: {told(found)}")
        if not changed:
            return
    if write:
        changes = row["environment"]["code"]["changes"]
        if changes != "none":
            make_folder(folder / "changes")
            atomic_write(folder / "changes" / f"{changes}.diff", _diff())
        lines = [json.dumps(kept, sort_keys=True, ensure_ascii=False) + "\n" for kept in [*before, row]]
        atomic_write(folder / FILE, "".join(lines))


def keep_start(folder: Path, recipe: Any, step: int) -> None:
    """The same for a start of a run at a step, on every rank; rank 0 writes.

    Args:
        folder: of the run.
        recipe: the train verb's config.
        step: where it goes on.

    Raises:
        CheckpointError: as `keep`.
    """
    row = {
        "step": step,
        "data": Manifest.read(storage_of(recipe.data)).digest,
        "seed": recipe.seed,
        "environment": gather(device_of(recipe.trainer)[0], recipe.plugins),
    }
    keep(folder, row, recipe.trainer.environment, say, write=ranks.rank() == 0)


def differences(before: Environment, now: Environment) -> dict[str, dict[str, tuple[str, str]]]:
    """What is otherwise, by field and name: what it was and what it is."""
    found = {
        field: {
            name: (before.get(field, {}).get(name, "absent"), now.get(field, {}).get(name, "absent"))
            for name in sorted(before.get(field, {}).keys() | now.get(field, {}).keys())
            if before.get(field, {}).get(name) != now.get(field, {}).get(name)
        }
        for field in now
    }
    return {field: names for field, names in found.items() if names}


def told(found: Mapping[str, tuple[str, str]], most: int = 4) -> str:
    """Differences of a field in a few words."""
    some = [f"{name} {was} -> {now}" for name, (was, now) in list(found.items())[:most]]
    return ", ".join(some) + (f" and {len(found) - most} more" if len(found) > most else "")


def _driver(accelerator: str) -> dict[str, str]:
    if accelerator != "cuda":
        return {}
    cudnn: Any = torch.backends.cudnn
    found = {"cuda": str(torch.version.cuda), "cudnn": str(cudnn.version())}
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {**found, "driver": (_output(asked).splitlines() or ["unknown"])[0]}


def _hardware(accelerator: str) -> dict[str, str]:
    found = {"processor": processor(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    if accelerator == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "gpus": str(torch.cuda.device_count())}
    return found


def _changes() -> str:
    """A name for what is changed in the checkout and not committed."""
    changes = _diff()
    return hashlib.sha256(changes.encode()).hexdigest()[:16] if changes else "none"


@functools.cache
def _diff() -> str:
    """What is changed in the checkout and not committed, as it was when this process first asked."""
    return _git("diff", "HEAD")


def _git(*words: str) -> str:
    """What git says of the checkout; nothing where there is none."""
    return _output(["git", "-C", str(ROOT), *words]) if (ROOT / ".git").exists() else ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
