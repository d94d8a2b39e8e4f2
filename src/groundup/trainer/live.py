"""What a person changes while a run goes on: the run folder's changes.yaml, seen by all ranks at the same step.

What the file comes to is written down before it takes effect; how segments follow from that is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback import decisions
from groundup.callback.decisions import CHANGE, Decision
from groundup.callback.watched import watched
from groundup.core.config.compose import parsed
from groundup.core.errors import ConfigError, UserError, nearest
from groundup.core.progress import Progress
from groundup.objective.base import Stepping
from groundup.trainer.changes import Change
from groundup.trainer.console import say

FILE = "changes.yaml"
KEYS = ("tokens", "set", "undo")


class Live(Callback):
    """Looks at the file with each row of the log, and ends the fit once it says something else than before.

    It must be the same at two looks in a row, as one that is just being written is not; and what it says must suit the
    run, else that is told once and nothing changes.

    Args:
        check: called on rank 0 with a change that would be decided upon; raises a UserError where it cannot be.

    Attributes:
        decided: in this fit a change was written down, which holds from the clock's reading at its end.
    """

    def __init__(self, check: Callable[[Decision], None]) -> None:
        self.check = check
        self.decided = False
        self._seen: Any = ()
        self._read: Any = ()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is decided yet."""
        self.decided = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if a row of the log is due, and there are more steps to come."""
        module = watched(pl_module)
        clock = module.progress
        if module.abandoned or clock.steps % module.setting.log_every or clock.tokens >= module.total.tokens:
            return
        new = torch.tensor(float(trainer.is_global_zero and self._look(module.folder, clock)))
        if trainer.world_size > 1:
            new = cast(Stepping, trainer.strategy).sum_over_ranks(new)
        if not new:
            return
        self.decided = True
        trainer.should_stop = True
        if clock.steps % (trainer.val_check_interval or clock.steps + 1):
            trainer.limit_val_batches = 0  # else Lightning would validate before it stops, whatever the step

    def _look(self, folder: Path, clock: Progress) -> bool:
        """Whether the file, if it is not just being written, says what has been written down now."""
        mark, before = _mark(folder / FILE), self._seen
        self._seen = mark
        if mark != before or mark == self._read:
            return False
        self._read = mark
        made = decisions.read(folder)
        said = next((decision.changes for decision in reversed(made) if decision.action == CHANGE), None) or []
        try:
            wanted = read(folder / FILE)
            if wanted == said:
                return False
            decision = Decision(
                decisions.attempts(made) + 1, clock.steps, CHANGE, told(wanted), clock=clock, changes=wanted
            )
            self.check(decision)
            decisions.record(folder, decision)
        except Exception as error:  # whatever it is that a person wrote there, the run does not end by it
            what = str(error) if isinstance(error, UserError) else repr(error)
            say(f"{folder / FILE}: {' '.join(what.split())}; the run goes on as it was")
            return False
        return True


def read(path: Path) -> list[dict[str, Any]]:
    """The changes that a file lists, none where there is no file; without `tokens`, they are meant at once.

    Raises:
        ConfigError: it is no such list.
    """
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(FILE, f"cannot be read ({error})", "correct it") from None
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ConfigError(FILE, "is no list of changes", "write lines like - set: {optimizer.rate: 0.001}")
    for number, entry in enumerate(value):
        _check(f"{FILE}[{number}]", entry)
    timed = [entry["tokens"] for entry in value if "tokens" in entry]
    if timed != sorted(timed) or any("tokens" not in entry for entry in value[len(value) - len(timed) :]):
        raise ConfigError(FILE, "is not in the order of its tokens", "sort it; those without tokens come first")
    try:
        plain: list[dict[str, Any]] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(FILE, f"holds a value that no option has ({error})", "correct it") from None
    return plain


def _check(where: str, entry: dict[str, Any]) -> None:
    for key in entry:
        if key not in KEYS:
            raise ConfigError(f"{where}.{key}", "is not a part of a change", nearest(str(key), KEYS))
    tokens, values, undo = (entry.get(key, default) for key, default in zip(KEYS, (1, {}, []), strict=True))
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise ConfigError(f"{where}.tokens={tokens}", "is no number of tokens", "give one, or leave it out: at once")
    if not isinstance(values, dict):
        raise ConfigError(f"{where}.set={values}", "holds no keys", "write set: {optimizer.rate: 0.001}")
    if not isinstance(undo, list) or not all(isinstance(key, str) for key in undo):
        raise ConfigError(f"{where}.undo={undo}", "is no list of keys", "write undo: [optimizer.rate]")
    Change(tokens=tokens, set=values, undo=undo)


def told(wanted: Sequence[dict[str, Any]]) -> str:
    """Changes in words."""
    parts = []
    for entry in wanted:
        words = [f"{key}={value}" for key, value in (entry.get("set") or {}).items()]
        words += [f"{key} as it was" for key in entry.get("undo") or ()]
        parts.append((f"from {entry['tokens']} tokens on " if "tokens" in entry else "") + ", ".join(words))
    return f"{FILE}: {'; '.join(parts) or 'nothing any more'}"


def _mark(path: Path) -> tuple[int, int] | None:
    """What is other once a file has been written."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
