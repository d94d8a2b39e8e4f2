"""What becomes of runs that meet trouble, unhelped and under each policy of `callback=recovery`, and of clean ones.

    python benchmarks/spikes.py                        # about an hour on two cores; --resume goes on where it stopped
    python benchmarks/spikes.py --again 2026-01-31     # a seed drawn by that date: a few minutes

Four kinds of trouble (`troubles.py`) with 20 seeds each befall a small decoder of bytes. Each run is train.py's own,
with recovery's own defaults. A case counts if the run that nobody helps ends without a number or 5% above the clean run
of its seed; it is recovered if the helped one ends within 1% of that, or two standard deviations of clean runs. Beside
ours stand the rules of OLMo-core and llm-foundry (`groundup.callback.published`). Clean runs, among them some whose
batch, mixture and rate change, are put to each policy as well: whatever it then does is a false alarm.

Each finished run is added at once to docs/records/spikes.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import torch
import troubles  # registers the callback

import groundup.verb.prepare  # noqa: F401  # registers the groups
from groundup.callback import decisions
from groundup.callback.policy import GO
from groundup.callback.published import policy_of
from groundup.core.config import compose, from_dict, to_dict
from groundup.core.errors import UserError
from groundup.trainer import replay, segments
from groundup.verb.train import Train

STEPS, BATCH, CONTEXT = 2000, 512, 32
SEEDS, QUIET = 20, 98
"""Seeds of each kind of trouble; further seeds that meet none, half of them with planned changes."""

POLICIES = ("escalate", "olmo_core", "llm_foundry")
HARM, WITHIN = 1.05, 1.01
"""A case counts where the unhelped run ends above this share of the clean one; it is recovered up to this share."""

SMALL = [
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    f"data.context={CONTEXT}",
    f"data.batch_tokens={BATCH}",
    "data.micro_batch=16",
    "data.held_out_tokens=65536",
    f"tokens={STEPS * BATCH}",
    "optimizer=adamw",
    "optimizer.rate=8e-3",
    "schedule.warmup_fraction=0.05",
    "trainer.compile=false",
    "trainer.precision=fp32",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.validate_every=null",
    "callback.checkpoint.every=50",
]
CHANGES = [
    f"{{tokens: {600 * BATCH}, set: {{data.batch_tokens: {2 * BATCH}}}}}",
    f"{{tokens: {1100 * BATCH}, set: {{data.weights: {{bible: 0.2, stdlib: 0.8}}}}}}",
    f"{{tokens: {1500 * BATCH}, set: {{optimizer.rate: 2e-3}}}}",
]
"""A batch that doubles, a mixture that turns over at once, a rate that is halved."""


def trouble(what: str, seed: int) -> list[str]:
    """Where a kind of trouble befalls a seed, as overrides."""
    drawn = int(hashlib.sha256(f"{what} {seed}".encode()).hexdigest(), 16)
    first, steps = {
        "poison": (1650 + drawn % 100, 200),
        "rate": (800 + drawn % 1000, 5),
        "gradient": (300 + drawn % 1500, 5),
        "logits": (400 + drawn % 400, STEPS),
    }[what]
    return [f"callback.trouble.what={what}", f"callback.trouble.first={first}", f"callback.trouble.steps={steps}"]


CASE = ("what", "seed", "policy")
KINDS = ("poison", "rate", "gradient", "logits")


def cases(seeds: int, many_quiet: int, drawn: int | None) -> Iterator[dict[str, Any]]:
    """Every run of a record, clean ones first and peers' last; or with a drawn seed those that are made again."""
    mine, quiet = (range(seeds), range(seeds, seeds + many_quiet)) if drawn is None else ([drawn], range(0))
    for seed in (*mine, *quiet):
        yield {"what": "changes" if seed in quiet and seed % 2 else "none", "seed": seed, "policy": "escalate"}
    for policies in ((None, POLICIES[0]), POLICIES[1:] if drawn is None else ()):
        for seed in mine:
            yield from ({"what": what, "seed": seed, "policy": policy} for what in KINDS for policy in policies)


def overrides(case: dict[str, Any]) -> list[str]:
    """The command line of a run, but for where it reads and writes."""
    watch = ["checkpoint", "trouble", *(["recovery"] if case["policy"] else [])]
    found = [*SMALL, f"seed={case['seed']}", f"callback=[{','.join(watch)}]"]
    found += [f"callback.recovery.policy={case['policy']}"] if case["policy"] else []
    if case["what"] == "changes":
        found += [f"changes=[{','.join(CHANGES)}]"]
    elif case["what"] != "none":
        found += trouble(case["what"], case["seed"])
    return found


def run(job: tuple[dict[str, Any], Path, Path | None]) -> dict[str, Any]:
    """A run in this process, from the beginning, and what became of it."""
    case, work, traces = job
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=work))
    began, stopped = time.monotonic(), None
    where = (f"data.path={work}/data", f"runs={folder}")
    config: Train = compose.composed(peers.ROOT / "conf", "train", *overrides(case), *where)
    config.check()
    try:
        config.run()
    except UserError as error:
        stopped = str(error)
    place = config.folder()
    made = decisions.read(place)
    report = place / "report.json"
    ended = json.loads(report.read_text())["held_out"]["all"] if stopped is None and report.exists() else None
    if case["what"] in ("none", "changes") and traces is not None:
        shutil.copy(place / replay.SIGNALS, traces / f"{case['what']}-{case['seed']}.csv")
    row = {
        "code": code(case),
        "steps": STEPS,
        **case,
        "bits_per_byte": ended if ended is not None and math.isfinite(ended) else None,
        "stopped": stopped,
        "decisions": dict(Counter(decision.action for decision in made)),
        "gone_back": [[one.step, one.clock.steps, one.rate, one.why] for one in made if one.goes_back and one.clock],
        "seconds": round(time.monotonic() - began, 1),
    }
    if case["what"] in ("none", "changes"):
        row["false_alarms"] = alarms(place)
    shutil.rmtree(folder)
    return row


def alarms(place: Path) -> dict[str, int]:
    """How many steps each policy would not have let go of a recorded clean run, by name, and of how many steps."""
    rows = replay.recorded(place)
    changes = [part.first.steps for part in segments.read(place)[1] if part.planned and part.first.steps]
    found = {"steps": len(rows)}
    for name in POLICIES:
        policy = policy_of(from_dict("callback", {"kind": "recovery", "policy": name}), changes)
        found[name] = sum(policy.observe(row).action != GO for row in rows)
    return found


def recovered(rows: list[dict[str, Any]], policy: str, spread: float) -> dict[str, Any]:
    """What a policy made of the cases that count.

    Args:
        rows: finished runs.
        policy: whose.
        spread: the standard deviation of clean runs, in bits per byte.
    """
    clean = {row["seed"]: row["bits_per_byte"] for row in rows if row["what"] == "none"}
    ends = {(row["what"], row["seed"], row["policy"]): row["bits_per_byte"] for row in rows}
    found = {what: [0, 0] for what in KINDS}
    for (what, seed, who), end in ends.items():
        unhelped = ends.get((what, seed, None))
        if who != policy or what not in KINDS or (what, seed, None) not in ends:
            continue
        if unhelped is None or unhelped > HARM * clean[seed]:
            bound = max(WITHIN * clean[seed], clean[seed] + 2 * spread)
            found[what][0] += end is not None and end <= bound
            found[what][1] += 1
    return {
        "recovered": sum(part[0] for part in found.values()),
        "cases": sum(part[1] for part in found.values()),
        "by_kind": {what: f"{good} of {many}" for what, (good, many) in found.items()},
    }


def deviation(rows: list[dict[str, Any]]) -> float:
    """The standard deviation of the clean runs' bits per byte."""
    return float(statistics.stdev(row["bits_per_byte"] for row in rows if row["what"] == "none"))


def false_alarms(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Of all clean runs: their steps, and how many of these each policy would not have let go."""
    found = Counter[str]()
    for row in rows:
        found.update(row.get("false_alarms", {}))
    return dict(found)


def report(rows: list[dict[str, Any]], spread: float) -> None:
    """A JSON line per figure."""
    for policy in POLICIES:
        if any(row["policy"] == policy and row["what"] in KINDS for row in rows):
            peers.emit(benchmark="spikes", figure="recovered", policy=policy, **recovered(rows, policy, spread))
    peers.emit(benchmark="spikes", figure="false alarms", **false_alarms(rows))


def code(case: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for a run: its command line, the troubles, who decides, by what numbers."""
    package = peers.ROOT / "src" / "groundup" / "callback"
    settings, files = [overrides(case), torch.__version__], [Path(troubles.__file__)]
    if case["policy"]:
        settings.append(to_dict(from_dict("callback", {"kind": "recovery"})))
        files += [package / f"{name}.py" for name in ("policy", "published", "baseline")]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def current(record: Path) -> list[dict[str, Any]]:
    """The rows of runs that would be made today as they were then."""
    return [row for row in peers.rows(record) if row["code"] == code({name: row[name] for name in CASE})]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each kind of trouble")
    parser.add_argument("--quiet", type=int, default=QUIET, help="further seeds that meet no trouble")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, a thread each")
    parser.add_argument("--resume", action="store_true", help="make only what the record lacks")
    parser.add_argument("--again", metavar="DATE", help="a seed drawn by this date, beside the record's clean runs")
    parser.add_argument("--traces", type=Path, help="a folder for losses and norms of clean runs, for replaying")
    parser.add_argument("--record", type=Path, default=peers.RECORDS / "spikes.jsonl", help="where rows are added")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Do what is not done yet, and print what became of all."""
    options = parse(arguments)
    drawn = 1000 + int(hashlib.sha256(options.again.encode()).hexdigest(), 16) % 10**6 if options.again else None
    kept = current(options.record)
    known = kept if options.resume else []
    done = {tuple(row[name] for name in CASE) for row in known}
    wanted = list(cases(options.seeds, options.quiet if drawn is None else 0, drawn))
    work = Path(tempfile.mkdtemp(prefix="groundup-spikes-"))
    config = compose.composed(
        peers.ROOT / "conf", "prepare", "source=[bible,stdlib]", "tokenizer=bytes", f"path={work}/data"
    )
    config.check()
    config.run()
    jobs = [(case, work, options.traces) for case in wanted if tuple(case.values()) not in done]
    rows = list(known)
    # Each run in a process of its own, forked from this one, in which all is imported.
    with multiprocessing.get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(run, jobs):
            row = {
                "date": datetime.date.today().isoformat(),
                "torch": torch.__version__,
                "machine": peers.machine(),
                **found,
            }
            rows.append(row)
            if drawn is None:
                peers.append(options.record, row)
            peers.emit(benchmark="spikes", **row)
    shutil.rmtree(work)
    report(rows, deviation(kept if drawn is not None else rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
