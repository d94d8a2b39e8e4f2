"""Bits per byte after three minutes of training on two cores: the default, GPT-2's recipe here, litgpt's Pythia.

    python benchmarks/quality.py                 # about 80 minutes; --resume goes on where it stopped
    python benchmarks/quality.py --again 2026-01-31    # a seed drawn by that date for all recipes; a quarter of an hour

The corpus is the Bible's chapters, a tenth of them held out by a hash of their text; bytes of that text are the
denominator. All recipes read the same shards, as many windows of the same length a step, and are scored on all held-out
text in the same windows that do not overlap. `recipes.py` does each run in a process of its own, one after the other.

GPT-2's size is the best of four at one rate and its rate the best of four at that size, by seed 0. The Pythia has the
default's layers, width and heads, and the best of the same rates. Then the seeds 1, 2, ... are trained by all recipes
in turn, and their medians compared; `--source stdlib` or `topics` does the same for another domain, without a bar.
Each finished run is added at once to docs/records/quality.jsonl. `--again` takes the choices of the record's newest
complete call and trains each recipe once more, by a seed nobody chose: what the record says can be tested any day.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peers

BAR = 0.95
"""What the default's bits per byte may be at most, as a share of a peer's."""

NEEDED = {"default": (), "gpt2": (), "pythia": ("litgpt",)}
"""Recipes, and what they need beside groundup."""

SIZES = ((4, 192), (4, 128), (4, 256), (6, 384))
"""Layers and width of GPT-2's models, with 64 channels a head."""

RATES = (2e-3, 1e-3, 4e-3, 8e-3)
"""Peak rates of the peers; the first is that at which sizes are compared."""

HELD_OUT = 0.1
PROCESS = """
import json, sys
sys.path.insert(0, "../src")
from groundup.core.memory import keep_freed_memory
keep_freed_memory()  # as train.py does, for every recipe; it must come before torch
import recipes
print(json.dumps(recipes.main(recipes.Job(**json.loads(sys.argv[1])))))
"""
HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Search for the peers, train everybody, print medians and ratios."""
    options = parse(arguments)
    known = recorded(options) if options.again else {}
    bench = Bench(options, prepare(options.source, options.work), fingerprint())
    peaks: dict[str, dict[str, Any]] = {}
    for recipe in options.recipes:
        missing = peers.absent(NEEDED[recipe])
        if missing:
            peers.emit(benchmark="quality", recipe=recipe, skipped=f"{', '.join(missing)} is not installed")
            continue
        peaks[recipe] = known[recipe] if options.again else search(bench, recipe, options.choices)
    final: dict[str, list[dict[str, Any]]] = {recipe: [] for recipe in peaks}
    for seed in [drawn(options.again)] if options.again else range(1, options.seeds + 1):
        for recipe, choice in peaks.items():
            final[recipe].append(bench.run(recipe, seed, **choice))
    report(final, options)
    return 0


def recorded(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The choice of each recipe asked for, in the newest call of the record that has all of them."""
    calls: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in peers.rows(options.record):
        if row["source"] == options.source and row["tiny"] == options.tiny and row["seed"] > 0:
            calls.setdefault((row["machine"], row["code"]), {})[row["recipe"]] = row["choice"]
    complete = [choices for choices in calls.values() if choices.keys() >= set(options.recipes)]
    if not complete:
        raise SystemExit(f"{options.record} holds no complete call for {options.source}: run without --again first")
    return complete[-1]


def drawn(date: str) -> int:
    """A seed that a date stands for, far from those of the record."""
    return 1000 + int(hashlib.sha256(date.encode()).hexdigest(), 16) % 10**6


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; what `--tiny` implies is filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="of training in each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs whose median counts")
    parser.add_argument("--choices", type=int, default=4, help="sizes and rates that are tried for the peers")
    parser.add_argument("--recipes", nargs="+", choices=tuple(NEEDED), default=tuple(NEEDED))
    parser.add_argument("--source", default="bible", help="the corpus; only for bible there is a bar")
    parser.add_argument(
        "--resume", action="store_true", help="take this machine's finished runs of this code from the record"
    )
    parser.add_argument("--again", metavar="DATE", help="train by a seed drawn by this date, with the record's choices")
    parser.add_argument("--record", type=Path, help="where rows are added; by default docs/records/quality.jsonl")
    parser.add_argument(
        "--work", type=Path, default=peers.ROOT / "runs" / "quality", help="folder for shards and a log"
    )
    parser.add_argument("--tiny", action="store_true", help="a few steps of very small models: for tests")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.seeds, options.choices = 1, 1
    if options.record is None:
        options.record = options.work / "tiny.jsonl" if options.tiny else peers.RECORDS / "quality.jsonl"
    return options


def prepare(source: str, work: Path) -> Path:
    """The corpus as shards, made if they are not there."""
    folder = work.resolve() / f"data-{source}"
    overrides = [f"source=[{source}]", f"path={folder}", f"held_out={HELD_OUT}"]
    command = [sys.executable, str(peers.ROOT / "prepare.py"), *overrides]
    done = subprocess.run(command, cwd=peers.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"{' '.join(command)} failed")
    return folder


@dataclasses.dataclass(frozen=True)
class Bench:
    """The runs of one call, and the record they go to.

    Attributes:
        options: the command line.
        data: the folder of shards.
        code: the fingerprint of what is measured.
        tried: bits per byte of the choices searched through, by recipe and choice.
        fitting: steps that fitted into the time, by recipe and shape: the next run of the shape begins with them.
    """

    options: argparse.Namespace
    data: Path
    code: str
    tried: dict[str, float] = dataclasses.field(default_factory=dict)
    fitting: dict[str, int] = dataclasses.field(default_factory=dict)

    def run(self, recipe: str, seed: int, **choice: Any) -> dict[str, Any]:
        """The row of a run: from the record if that is wanted and there, else from training now."""
        options = self.options
        key = {
            "code": self.code,
            "machine": peers.machine(),
            "source": options.source,
            "recipe": recipe,
            "seed": seed,
            "seconds": options.seconds,
            "tiny": options.tiny,
            "choice": choice,
        }
        shape = json.dumps([recipe, choice.get("layers"), choice.get("width")])
        if options.resume:
            for row in peers.rows(options.record):
                if all(row.get(name) == value for name, value in key.items()):
                    self.fitting[shape] = row["steps"]
                    return row
        job = {"recipe": recipe, "seed": seed, "seconds": options.seconds, "tiny": options.tiny, **choice}
        # Of one run each the clock must be right: what drifts in a peer's favour would decide.
        job |= {"data": str(self.data), "steps": self.fitting.get(shape), "exact": bool(options.again)}
        row = {"date": datetime.date.today().isoformat(), **key, **train(job, options.work / "last.log")}
        self.fitting[shape] = row["steps"]
        peers.append(options.record, row)
        peers.emit(benchmark="quality", **row)
        return row


def train(job: dict[str, Any], log: Path) -> dict[str, Any]:
    """Do a run in a process of its own, its words in a log."""
    command = [sys.executable, "-c", PROCESS, json.dumps(job)]
    with log.open("w") as file:
        done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{json.dumps(job)} failed:\n{log.read_text()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def search(bench: Bench, recipe: str, choices: int) -> dict[str, Any]:
    """The best size and rate of a recipe among so many of each, by seed 0; the default has nothing to choose."""
    if recipe == "default":
        return {}
    sizes = [{"layers": layers, "width": width} for layers, width in SIZES[:choices]] if recipe == "gpt2" else [{}]
    if len(sizes) > 1:
        sizes = [best(bench, recipe, [{**size, "rate": RATES[0]} for size in sizes])]
    rates = [{**sizes[0], "rate": rate} for rate in RATES[:choices]]
    return best(bench, recipe, rates)


def best(bench: Bench, recipe: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The choice with the fewest bits per byte; what was tried before in this call is not tried again."""
    if len(choices) == 1:
        return choices[0]
    for choice in choices:
        key = json.dumps([recipe, choice])
        if key not in bench.tried:
            bench.tried[key] = bench.run(recipe, 0, **choice)["bits_per_byte"]
    return min(choices, key=lambda choice: bench.tried[json.dumps([recipe, choice])])


def report(final: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print the median of each recipe, and the default's as a share of each peer's."""
    medians = {recipe: statistics.median(row["bits_per_byte"] for row in rows) for recipe, rows in final.items()}
    for recipe, rows in final.items():
        spread = [row["bits_per_byte"] for row in rows]
        seconds = statistics.median(row["training_seconds"] for row in rows)
        peers.emit(
            benchmark="quality",
            figure=f"bits per byte of {options.source}, {recipe}",
            value=round(medians[recipe], 4),
            seeds=[round(value, 4) for value in spread],
            training_seconds=seconds,
            choice=rows[0]["choice"],
            model=rows[0]["model"],
            unit="bits per byte",
        )
    for peer in [recipe for recipe in medians if recipe != "default" and "default" in medians]:
        ratio = medians["default"] / medians[peer]
        barred = options.source == "bible" and not options.tiny
        bar = {"bar": BAR, "holds": ratio <= BAR} if barred else {}
        peers.emit(benchmark="quality", figure=f"default / {peer}", value=round(ratio, 4), unit="ratio", **bar)


def fingerprint() -> str:
    """Sixteen hexadecimal digits that stand for the code that a run depends on."""
    digest = hashlib.sha256()
    for path in code():
        digest.update(f"{path.relative_to(peers.ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code() -> Iterable[Path]:
    """The files of the package, the configs, and what does a run."""
    package = sorted((peers.ROOT / "src").rglob("*.py"))
    return [*package, *sorted((peers.ROOT / "conf").rglob("*.yaml")), HERE / "recipes.py", HERE / "peers.py"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
