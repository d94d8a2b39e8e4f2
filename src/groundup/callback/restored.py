"""What a run goes on from, checked by hash and told in a few lines; how it was read is not known here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from groundup.callback.contents import CALLBACK, STRATEGY, Kinds
from groundup.callback.tensors import Hashes, hashes
from groundup.core.errors import CheckpointError
from groundup.core.progress import Progress
from groundup.objective import state

_PARTS = ("weights", "optimizer", "average", "recovery")
"""Told of even where a checkpoint has nothing of them."""

_OPTIONS = ("name", "peak", "betas", "momentum", "eps", "weight_decay")


def check(tensors: Mapping[str, Tensor], saved: Hashes, where: str) -> None:
    """Hold what stands in this rank's memory against the hashes of what was saved.

    Pieces are compared that one rank wrote and this one has as they are: all of them on one rank or where each rank has
    all, and each rank's own in the layout they were saved in. In another layout the files' hashes must do.

    Raises:
        CheckpointError: naming the first tensor that differs.
    """
    for place, found in hashes(tensors).items():
        if saved.get(place, found) != found:
            what = f"{place} differs in memory from what was saved"
            raise CheckpointError(where, what, "look for a bad disk or bad memory, and start again")


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Each different set of an optimizer's options that make its updates: betas, decay, peak rate and so on."""
    found: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        plain = {key: _plain(group[key]) for key in _OPTIONS if key in group}
        if plain not in found:
            found.append(plain)
    return found


def table(values: Mapping[str, Any], kinds: Kinds, saved: Hashes, now: Mapping[str, Any], where: str) -> Iterable[str]:
    """What was restored, a line for each part.

    Args:
        values: of the checkpoint's `state.json`.
        kinds: shape and dtype of its tensors.
        saved: hashes of their pieces.
        now: what `values` would say of optimizer and schedule in the run as it goes on.
        where: the checkpoint.
    """
    progress = Progress(**values["progress"])
    yield f"restored from {where}:"
    by_part: dict[str, list[str]] = {name: [] for name in _PARTS}
    for name in sorted(kinds):
        by_part.setdefault(_part(name), []).append(name)
    notes = {"optimizer": _compared("optimizer", values, now)}
    for part, names in by_part.items():
        numbers = sum(math.prod(kinds[name][0]) for name in names)
        found = f"{_digest(names, saved)}  {len(names)} tensors, {numbers:,} numbers" if names else "none was kept"
        yield f"  {part:<10} {found}{notes.get(part, '')}"
    yield f"  {'schedule':<10} {_schedule(now['schedule'])}{_compared('schedule', values, now)}"
    yield (
        f"  {'position':<10} step {progress.steps}, {progress.samples:,} samples, {progress.tokens:,} tokens; "
        f"plan {values['segments']}"
    )
    scores = values["scores"]
    best = min(scores, key=scores.get) if scores else None
    told = f"; best {scores[best]:.4f} at step {best}" if best is not None else ""
    yield f"  {'counters':<10} {len(scores)} validations{told}"


def _part(name: str) -> str:
    if name.startswith(state.NETS):
        return "weights"
    if state.OPTIMIZER in name:
        return "optimizer"
    if name.startswith(CALLBACK):
        owner = name.removeprefix(CALLBACK).partition("/")[0]
        return "average" if owner == "ema" else owner
    return STRATEGY.rstrip("/")


def _digest(names: Iterable[str], saved: Hashes) -> str:
    """One hash of a part's pieces; a checkpoint of an earlier version has none."""
    wanted = set(names)
    mine = sorted((place, value) for place, value in saved.items() if place.partition(" ")[0] in wanted)
    return f"sha256 {hashlib.sha256(repr(mine).encode()).hexdigest()[:12]}" if mine else "no hash kept"


def _compared(part: str, values: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The config decides; what it says otherwise than when the checkpoint was made is told."""
    before, after = values.get(part), now[part]
    said = "" if part == "schedule" else f"; {'; '.join(map(_options, after))}"
    if before is None or before == after:
        return said
    was = _schedule(before) if part == "schedule" else "; ".join(map(_options, before))
    return f"{said} (was: {was})"


def _options(group: Mapping[str, Any]) -> str:
    plain = ", ".join(f"{key} {_short(value)}" for key, value in group.items() if key != "name")
    return f"{group['name']}: {plain}" if "name" in group else plain


def _schedule(schedule: Mapping[str, Any]) -> str:
    return f"{schedule['kind']}, {schedule['factor']:.6g} times the peak rate"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Tensor) else value
