"""The search: trials are run one after the other until the study has as many as it should.

The same command in a second terminal, or again after a kill, works on the same study.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from groundup.core.bits import OF_TEXT
from groundup.core.config import identity_of
from groundup.core.report import quantity
from groundup.sweep.config import Search
from groundup.sweep.page import best_of, write
from groundup.sweep.program import Program
from groundup.sweep.space import overrides
from groundup.sweep.study import Row, Study, Taken
from groundup.sweep.trial import run

WAIT_SECONDS = 0.5
HEADER = f"{'trial':>5}  {'state':<8}  {{:>9}}  {'tokens':>7}  {'seconds':>7}  {'best':>8}  parameters"


def search(options: Search, program: Program, base: Any) -> None:
    """Run trials until the study has its number of them, then name the best.

    Args:
        options: of the search.
        program: what its trials run.
        base: the config they begin with, checked.

    Raises:
        UserError: the study's folder cannot be written, or was made with another space; no trial has run then.
    """
    identity = {**identity_of(base), "folder": base.folder().name}
    study = Study(Path(base.runs) / options.study, options, identity, getattr(base.objective, "unit", OF_TEXT))
    print(f"study {study.folder}: {study.total} trials, {len(study.rows())} of them begun", flush=True)
    table = Table(study)
    while (taken := study.next()) or not study.ended():
        if taken is None:  # others run the last trials; should one be killed, its trial is taken up here
            time.sleep(WAIT_SECONDS)
            table.update()
            continue
        table.row(Row(taken.number, "running", taken.chosen))
        study.end(taken, run(program, study, taken, functools.partial(table.beat, taken)))
        table.update()
        write(study)
    table.update()
    page = write(study)
    best = best_of(study.rows())
    if best is not None:
        print(f"best: trial {best.number}, {best.value:.4f}: {' '.join(overrides(options.space, best.chosen))}")
    print(f"report: {page}", flush=True)


class Table:
    """The study as lines of a terminal: one for each trial that begins here and each that ends, here or elsewhere."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._shown: set[int] = set()
        print(HEADER.format("bits/byte" if study.unit == OF_TEXT else "held out"), flush=True)
        self.update()

    def update(self) -> None:
        """Show the trials that ended since the last time."""
        for row in self.study.rows():
            if row.state != "running" and row.number not in self._shown:
                self._shown.add(row.number)
                self.row(row)

    def beat(self, taken: Taken, tokens: int) -> None:
        """Show that a trial is under way, and what ended elsewhere meanwhile."""
        self.update()
        looks = list(self.study.rows()[taken.number].looks.values())
        self.row(Row(taken.number, "running", taken.chosen, looks[-1] if looks else None, tokens))

    def row(self, row: Row) -> None:
        """Show one."""
        best = best_of(self.study.rows())
        cells = [
            f"{row.number:>5}",
            f"{row.state:<8}",
            f"{'' if row.value is None else format(row.value, '.4f'):>9}",
            f"{quantity(row.tokens) if row.tokens else '':>7}",
            f"{format(row.seconds, '.1f') if row.seconds else '':>7}",
            f"{'' if best is None or best.value is None else format(best.value, '.4f'):>8}",
            " ".join(f"{name}={_short(value)}" for name, value in row.chosen.items()),
        ]
        print("  ".join(cells) + (f"  ({row.reason})" if row.reason else ""), flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
