"""From where a run goes on: what was decided on its way, and checkpoints as far as they can be seen without torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.callback import decisions
from groundup.callback.mirror import mirror_of
from groundup.core import checkpoint
from groundup.core.config import from_dict, to_dict
from groundup.core.errors import CheckpointError, DataError
from groundup.core.files import read_json
from groundup.core.progress import Progress
from groundup.trainer import rollback
from groundup.trainer import segments as segment_list
from groundup.trainer.changes import apply
from groundup.trainer.console import say
from groundup.trainer.segments import Segment

if TYPE_CHECKING:
    from groundup.verb.train import Train


def check(run: Train) -> None:
    """Whether `resume` names a checkpoint of this run's network; nothing is asked where it names none.

    Raises:
        CheckpointError: it is no folder, or another network's.
    """
    if run.resume is None:
        return
    path = Path(run.resume)
    if not path.is_dir():
        raise CheckpointError(f"resume={path}", "is not a folder", "give a step-N folder below checkpoints/")
    with suppress(DataError, KeyError, TypeError):  # what is missing or damaged, `verify` names before the run
        _check_model(run, path)


def plan(run: Train) -> list[Segment]:
    """The run's segments by all that was decided; records and a checkpoint come from its mirror where there are none.

    Raises:
        StorageError: the run folder cannot be written.
        CheckpointError: the mirror, or what was decided, cannot be read.
    """
    folder = run.folder()
    mirror = None if run.fresh or run.resume or checkpoint.listed(folder) else mirror_of(run.callback, folder)
    if mirror is not None:
        mirror.fetch_records()
    found = run.course().segments(decisions.read(folder))
    if mirror is not None:
        mirror.fetch(say, lambda path: rollback.lies_on(found, path))
    return found


def _check_model(run: Train, path: Path) -> None:
    """A checkpoint's nets, as their configs describe them, must be this run's at its step; dropout may differ."""
    state = read_json(path / "state.json")
    saved = to_dict(from_dict("model", state["nets"]["model"]))
    segments = run.course().segments(decisions.read(run.folder()))
    number = segment_list.at(segments, Progress(max(0, state["progress"]["steps"] - 1)))
    mine = to_dict(apply(run, segments[min(number, len(segments) - 1)].set).model)
    for key in sorted(saved.keys() | mine.keys()):
        if not key.endswith("dropout") and saved.get(key) != mine.get(key):
            raise CheckpointError(
                f"resume={path}",
                f"is another model's: model.{key} is {saved.get(key)} there and {mine.get(key)} here",
                "give the model it was trained with, or a checkpoint of this one",
            )
