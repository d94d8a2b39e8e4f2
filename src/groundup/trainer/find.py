"""Where a run, a checkpoint or a model folder stands; it opens none, and imports no torch."""

from __future__ import annotations

from pathlib import Path

from groundup.core import checkpoint
from groundup.core.errors import CheckpointError
from groundup.trainer import segments

MODEL = "model.json"
"""`groundup.model.load.CONFIG`, whose module imports torch."""

REMEDY = "give a run's folder, one of its checkpoints/step-N, or a model folder"


def find(run: str) -> Path:
    """The folder that `run=` names: itself, or the only run in it.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    path = Path(run).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"run={run}", "is not a folder", f"train a model first, or {REMEDY}")
    if is_checkpoint(path) or is_run(path) or (path / MODEL).is_file():
        return path
    runs = sorted(found for found in path.iterdir() if found.is_dir() and is_run(found))
    if len(runs) == 1:
        return runs[0]
    what = f"holds {len(runs)} runs: {', '.join(found.name for found in runs[:4])}" if runs else "holds no model"
    raise CheckpointError(f"run={run}", what, "name one of them" if runs else REMEDY)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / segments.FILE).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of one."""
    return (path / checkpoint.MARKER).is_file() or (path / "state.json").is_file()
