"""The search: everything is checked, then trials are run one after the other until the study has as many as it should.

The same command in a second terminal, or again after a kill, works on the same study.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from groundup.core import ranks
from groundup.core.config import identity_of
from groundup.core.errors import ConfigError, StorageError, UserError
from groundup.core.report import quantity
from groundup.sweep.config import Search
from groundup.sweep.page import best_of, write
from groundup.sweep.space import overrides, probes
from groundup.sweep.study import Row, Study, Taken
from groundup.sweep.trial import Program, run

WAIT_SECONDS = 0.5
HEADER = f"{'trial':>5}  {'state':<8}  {'bits/byte':>9}  {'tokens':>7}  {'seconds':>7}  {'best':>8}  parameters"


def search(options: Search, program: Program) -> None:
    """Run trials until the study has its number of them, then name the best.

    Raises:
        UserError: the space, the config or the study's folder is not what it should be; no trial has run then.
    """
    base = check(options, program)
    identity = {**identity_of(base), "folder": base.folder().name}
    study = Study(Path(base.runs) / options.study, options, identity)
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


def check(options: Search, program: Program) -> Any:
    """Find what cannot work before a trial runs or a file is written; the config that all trials begin with.

    Raises:
        UserError: with the key and the remedy.
    """
    if ranks.world() > 1:
        what = "a search starts its trials itself, each on one process"
        raise ConfigError(f"WORLD_SIZE={ranks.world()}", what, "start it without torchrun; several share the study")
    if not options.space:
        raise ConfigError(
            "sweep.space",
            "holds no parameter",
            "give one: '+sweep.space={rate: {key: optimizer.rate, low: 0.001, high: 0.1}}'",
        )
    base = program.compose([])
    for name, value in (("fresh", False), ("resume", None), ("stop_steps", None)):
        if getattr(base, name) != value:
            what = "would keep a trial from its end, or from going on where it stopped"
            raise ConfigError(f"{name}={getattr(base, name)}", what, "leave it out; another sweep.study starts over")
    base.check()
    if options.pruner is not None and options.pruner.every_tokens >= base.tokens:
        where = f"sweep.pruner.every_tokens={options.pruner.every_tokens}"
        raise ConfigError(where, f"is not below tokens={base.tokens}", "look more often, or leave the pruner out")
    for name, chosen in probes(options.space):
        given = overrides(options.space, chosen)
        try:
            program.compose(given).check()
        except StorageError:
            raise
        except UserError as error:
            what = f"cannot be {given[-1]} ({error.where}: {error.what})"
            raise ConfigError(f"sweep.space.{name}", what, error.remedy) from None
    return base


class Table:
    """The study as lines of a terminal: one for each trial that begins here and each that ends, here or elsewhere."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._shown: set[int] = set()
        print(HEADER, flush=True)
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
