"""A study as a page and as JSON: every trial, those that failed with their reasons, and Optuna's plots."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna

from groundup.core.errors import StorageError
from groundup.core.files import atomic_json, atomic_write
from groundup.core.report import Report, duration, quantity
from groundup.sweep.space import overrides
from groundup.sweep.study import Row, Study

FIGURES = "trials.json"


def best_of(rows: Sequence[Row]) -> Row | None:
    """The complete trial with the lowest value."""
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    return min(complete, key=lambda row: row.value or 0.0, default=None)


def write(study: Study) -> Path:
    """Write report.html, report.md, trials.json and the plots into the study's folder.

    Returns:
        The HTML page.

    Raises:
        StorageError: a file cannot be written.
    """
    rows = study.rows()
    atomic_json(study.folder / FIGURES, figures(study, rows))
    report = Report(f"Study {study.search.study}")
    _summary(report, study, rows)
    for path, caption in draw(study, rows):
        report.figure(path, caption)
    report.heading("Trials")
    _table(report, study, rows)
    return report.write(study.folder)[0]


def figures(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """The study as plain values."""
    best = best_of(rows)
    return {
        "study": study.search.study,
        "sampler": study.search.sampler,
        "seed": study.search.seed,
        "total": study.total,
        "best": None if best is None else best.number,
        "trials": [
            {
                "number": row.number,
                "state": row.state,
                "value": row.value,
                "parameters": row.chosen,
                "overrides": overrides(study.search.space, row.chosen),
                "tokens": row.tokens,
                "seconds": row.seconds,
                "reason": row.reason,
                "looks": {str(tokens): value for tokens, value in row.looks.items() if value == value},
                "folder": study.folder_of(row.number).name,
            }
            for row in rows
        ],
    }


def _summary(report: Report, study: Study, rows: Sequence[Row]) -> None:
    count = {state: sum(row.state == state for row in rows) for state in ("complete", "pruned", "failed", "running")}
    states = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    best = best_of(rows)
    report.tiles(
        [
            ("best", f"{best.value:.4f}" if best else "–", f"held-out {study.unit}, lower is better"),
            ("trials", f"{len(rows) - count['running']} of {study.total}", states),
            ("tokens", quantity(sum(row.tokens for row in rows)), "of all trials that ended"),
            ("time", duration(sum(row.seconds for row in rows)), "of all trials that ended"),
        ]
    )
    if best:
        report.paragraph(f"Trial {best.number} was best. Its parameters, as overrides:")
        report.code(" ".join(overrides(study.search.space, best.chosen)))


def _table(report: Report, study: Study, rows: Sequence[Row]) -> None:
    names = list(study.search.space)
    ordered = sorted(rows, key=lambda row: (row.state != "complete", row.value is None, row.value or 0.0, row.number))
    report.table(
        ["trial", "state", study.unit, *names, "tokens", "seconds", "why"],
        [
            [
                row.number,
                row.state,
                row.value,
                *(_cell(row.chosen.get(name)) for name in names),
                row.tokens,
                round(row.seconds, 1),
                row.reason,
            ]
            for row in ordered
        ],
    )


def _cell(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, float) else str(value)


def draw(study: Study, rows: Sequence[Row]) -> list[tuple[Path, str]]:
    """Optuna's plots as pictures in the study's folder, each with a caption; those there is something to show in."""
    import matplotlib

    matplotlib.use("Agg")  # no window, whatever the machine has
    from optuna.visualization import matplotlib as plots

    complete = [row for row in rows if row.state == "complete"]
    values = {row.value for row in complete}
    label: dict[str, Any] = {"target_name": study.unit}
    wanted: list[tuple[bool, str, Callable[[optuna.Study], Any], str]] = [
        (bool(complete), "history", lambda s: plots.plot_optimization_history(s, **label), "Trials in their order"),
        (bool(complete), "slice", lambda s: plots.plot_slice(s, **label), "Each parameter by itself"),
        (
            len(values) > 1,
            "importance",
            lambda s: plots.plot_param_importances(s, **label),
            "How much of what sets good trials apart lies in each parameter (PED-ANOVA, Watanabe et al. 2023)",
        ),
        (
            any(row.looks for row in rows),
            "looks",
            plots.plot_intermediate_values,
            f"Held-out {study.unit} at each look, by tokens",
        ),
    ]
    found = []
    for _, name, plot, caption in (row for row in wanted if row[0]):
        try:
            found.append((_picture(study.folder / f"{name}.png", study.optuna, plot), caption))
        except StorageError:
            raise
        except Exception as error:  # whatever a plot of Optuna's cannot show must not end a search of days
            print(f"the plot {name} is left out: {type(error).__name__}: {error}", flush=True)
    return found


def _picture(path: Path, study: optuna.Study, plot: Callable[[optuna.Study], Any]) -> Path:
    import matplotlib
    from matplotlib import pyplot

    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # it remarks on choices that are numbers
    with matplotlib.rc_context(), warnings.catch_warnings():  # Optuna's plots change the style of all others
        for category in (optuna.exceptions.ExperimentalWarning, UserWarning):  # of few trials, and of lower is better
            warnings.simplefilter("ignore", category)
        plot(study)
        figure = pyplot.gcf()
        figure.set_size_inches(max(10, 3 * len(figure.axes)), 4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": ""})
        pyplot.close("all")
    atomic_write(path, buffer.getvalue())
    return path
