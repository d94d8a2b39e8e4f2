"""The report of an evaluation, set from its figures; it measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.core.bars import Bar, bars_png
from groundup.core.bits import MEANINGS, OF_TEXT
from groundup.core.report import Report, duration, quantity

Figures = Mapping[str, Any]


def page(figures: Figures, folder: Path) -> Report:
    """Lay out what `evaluate.py` measured, and draw its pictures into a folder.

    Args:
        figures: as stands in evaluation.json.
        folder: where the pictures go.

    Raises:
        StorageError: a picture cannot be written.
    """
    held_out, results = figures["held_out"], figures["results"]
    unit = figures.get("unit", OF_TEXT)  # figures of an older version do not say
    report = Report(f"Evaluation of {figures['name']}")
    tiles = []
    if held_out:
        tiles.append((unit, f"{held_out['all']:.3f}", "of held-out text; lower is better"))
    for result in results:
        if not result.get("error") and result["metrics"] and len(tiles) < 6:
            first = speaking(result)
            tiles.append((result["task"], shown(first["value"]), _remark(result, first)))
    report.tiles(tiles)
    count = quantity(figures["parameters"])
    report.paragraph(
        f"`{figures['run']}` ({figures['weights']}): {count} parameters, {figures['tokens']:,} tokens trained."
    )
    _held_out(report, held_out, unit, folder)
    _tasks(report, results, folder)
    _samples(report, figures["samples"])
    _how(report, figures)
    return report


def shown(value: float) -> str:
    """A figure with four decimals, or four digits where it is large."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.4g}"


def speaking(result: Figures) -> Figures:
    """The figure that speaks for a task: a share of right answers where it has one."""
    shares = [metric for metric in result["metrics"] if metric["name"].startswith(("acc", "exact"))]
    found: Figures = (shares or result["metrics"])[0]
    return found


def _remark(result: Figures, metric: Figures) -> str:
    number = result["num_fewshot"]
    shots = f"{number} example{'s' if number > 1 else ''}" if number else "no examples"
    chance = f", chance {result['chance']:.3f}" if result.get("chance") and metric["name"].startswith("acc") else ""
    return f"{metric['name']}, {shots}{chance}"


def _held_out(report: Report, held_out: Mapping[str, float], unit: str, folder: Path) -> None:
    report.heading("Held-out text")
    if not held_out:
        report.paragraph("Not measured: there was no data folder.")
        return
    text = "; they do not depend on the tokenizer" if unit == OF_TEXT else ""
    report.paragraph(f"Of documents that were held out: {MEANINGS.get(unit, unit)}{text}.")
    rows = [(name, f"{value:.4f}") for name, value in held_out.items() if name != "all"]
    report.table(["text", unit], [*rows, ("all", f"{held_out['all']:.4f}")])
    picture = folder / "held_out.png"
    bars_png(picture, [Bar(name, value) for name, value in held_out.items()], unit)
    report.figure(picture, f"{unit.capitalize()} by domain.")


def _tasks(report: Report, results: Sequence[Figures], folder: Path) -> None:
    good = [result for result in results if not result.get("error")]
    if good:
        report.heading("Tasks")
        rows = [
            [
                result["task"] + (" (mean)" if result["group"] else ""),
                result["num_fewshot"],
                metric["name"] if metric["filter"] == "none" else f"{metric['name']}, {metric['filter']}",
                shown(metric["value"]),
                None if metric["stderr"] is None else shown(metric["stderr"]),
                None if not result["chance"] or not metric["name"].startswith("acc") else f"{result['chance']:.4f}",
                result["questions"],
                duration(result["seconds"]),
            ]
            for result in good
            for metric in result["metrics"]
        ]
        report.paragraph(
            "`acc` is the share of right answers, `acc_norm` the same with likelihoods divided by the answers' length, "
            "± one standard error, chance what guessing scores."
        )
        report.table(["task", "examples", "figure", "value", "±", "chance", "questions", "time"], rows)
        for note in dict.fromkeys(result["note"] for result in good if result.get("note")):
            names = dict.fromkeys(f"`{result['task']}`" for result in good if result.get("note") == note)
            report.paragraph(f"{', '.join(names)}: {note}.")
        bars = [
            Bar(f"{result['task']}, {result['num_fewshot']}", metric["value"], metric["stderr"], result["chance"])
            for result in good
            if result["metrics"]
            for metric in [speaking(result)]
            if 0 <= metric["value"] <= 1
        ]
        if bars:
            picture = folder / "tasks.png"
            bars_png(picture, bars, "share")
            report.figure(picture, "The share of right answers with its standard error; a stroke marks chance.")
    failed = [result for result in results if result.get("error")]
    if failed:
        report.heading("Tasks that failed")
        report.table(["task", "examples", "why"], [[r["task"], r["num_fewshot"], r["error"]] for r in failed])


def _samples(report: Report, samples: Sequence[Figures]) -> None:
    if samples:
        report.heading("Samples")
        for sample in samples:
            report.sample(sample["prompt"], sample["text"])


def _how(report: Report, figures: Figures) -> None:
    report.heading("How it was measured")
    rows: list[tuple[str, str]] = list(figures["environment"].items())
    for result in figures["results"][:1]:
        start = "none" if result["start"] is None else f"id {result['start']}"
        batch = f"{result['batch_tokens']} tokens" + (f", {result['batch']} requests" if result["batch"] else "")
        rows += [("batch", batch), ("start token", start), ("context", f"{result['context']:,}")]
        limit = "all" if result["limit"] is None else f"the first {result['limit']} of each task"
        rows += [("forward passes", result["dtype"]), ("questions", limit), ("seed of the tasks", str(result["seed"]))]
        rows += [(name, found) for name, found in result["versions"].items() if name in ("lm_eval", "datasets")]
    sampling = ", ".join(f"{name} {value}" for name, value in figures["sampling"].items() if value is not None)
    report.table(["", ""], [*rows, ("samples", sampling)])
    hashes = [
        [r["task"], str(r["version"]), r["hash"][:16], r["shortened"]] for r in figures["results"] if r.get("hash")
    ]
    if hashes:
        report.paragraph(
            "A task's hash stands for every question, prompt and answer it was asked with; shortened requests "
            "were longer than the context and lost their beginning."
        )
        report.table(["task", "version", "hash", "shortened"], hashes)
