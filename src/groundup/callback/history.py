"""The metrics of a run in one CSV file, a row for each step and name; it knows numbers and no trainer.

Long rows (`step,name,value`) keep the columns the same when a metric appears that was not there before, and an
append is one write. Values stand as Python's shortest exact form, so two runs can be compared bit by bit.
In pandas: `read_csv(path, float_precision="round_trip").pivot(index="step", columns="name", values="value")`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from groundup.core.errors import DataError
from groundup.core.files import atomic_write, make_folder, storage_error

METRICS = "metrics.csv"
"""What the mathematics gave: the same in any undisturbed run of the same config."""

SPEED = "speed.csv"
"""What the machine gave: names that begin with `speed/`."""

_HEADER = "step,name,value\n"


@dataclass
class Series:
    """One metric: its value at each step where it was logged, in that order."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self.values[-1] if self.values else None


class History:
    """A metrics file that only grows, but for `rewind`. One process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a step. They reach the operating system before this returns, so a kill loses none.

        Raises:
            StorageError: the disk refused.
            ValueError: a name would break the file's columns.
        """
        for name in metrics:
            if not name or set(name) & set(',"\r\n'):
                raise ValueError(f"{name!r} cannot name a metric")
        rows = "".join(f"{step},{name},{_exact(value)}\n" for name, value in metrics.items())
        make_folder(self.path.parent)
        try:
            with self.path.open("ab", buffering=0) as file:
                if file.tell() == 0:
                    rows = _HEADER + rows
                data = rows.encode()
                while data:
                    data = data[file.write(data) :]
        except OSError as error:
            raise storage_error(self.path, error) from error

    def sync(self) -> None:
        """Make what was appended survive a loss of power.

        Raises:
            StorageError: the disk refused.
        """
        if self.path.exists():
            try:
                with self.path.open("rb+") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise storage_error(self.path, error) from error

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps, and a last row that was cut off: the file of a run that stopped at `step`.

        Raises:
            StorageError: it cannot be written.
        """
        if not self.path.exists():
            return
        before = self.path.read_bytes()
        kept = [line for line in before.splitlines(keepends=True)[1:] if _step_of(line) in range(step + 1)]
        after = _HEADER.encode() + b"".join(kept)
        if after != before:
            atomic_write(self.path, after)


def since(path: Path, step: int) -> str:
    """A file's rows of later steps, as a file of the same form."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return _HEADER + b"".join(line for line in lines[1:] if _step_of(line) > step).decode()


def read(path: Path) -> dict[str, Series]:
    """Every metric of a file by name, in order of appearance; none if the file is not there.

    Raises:
        DataError: a row that `History` did not write.
    """
    found: dict[str, Series] = {}
    if not path.exists():
        return found
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], 2):
        try:
            step, name, value = line.split(",")
            series = found.setdefault(name, Series())
            series.steps.append(int(step))
            series.values.append(float(value))
        except ValueError:
            raise DataError(f"{path}:{number}", "is no row of step,name,value", "resume the run to repair it") from None
    return found


def _exact(value: float) -> str:
    return repr(int(value)) if isinstance(value, int) else repr(float(value))


def _step_of(line: bytes) -> int:
    """The step of a whole row; -1 for one that is not."""
    step, *rest = line.split(b",")
    return int(step) if line.endswith(b"\n") and len(rest) == 2 and step.isdigit() else -1
