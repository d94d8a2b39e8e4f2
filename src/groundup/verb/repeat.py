"""Trains the first steps of a run again, somewhere else, and compares every loss bit by bit; the run is not changed.

python -m groundup.verb.repeat RUN [--data FOLDER] [--losses N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import groundup.verb.train  # noqa: F401  # registers the groups
from groundup.callback import decisions
from groundup.callback.history import METRICS, read
from groundup.core.config import from_dict
from groundup.core.errors import CheckpointError, ConfigError, answered
from groundup.core.files import make_folder
from groundup.shard.manifest import Manifest
from groundup.trainer import segments
from groundup.trainer.environment import differences, rows, told
from groundup.trainer.find import find, is_run
from groundup.trainer.opening import import_plugins

LOSS = "train/loss"


@dataclass(frozen=True)
class Repeated:
    """What came of it.

    Attributes:
        losses: pairs of a loss in the run's log and the same again, by step.
        differences: of the environment now from the run's, in words.
    """

    losses: dict[int, tuple[float, float]]
    differences: list[str]

    @property
    def same(self) -> bool:
        """Whether every loss is bitwise the same."""
        return all(was == now for was, now in self.losses.values())


def repeat(run: Path, losses: int, data: Path | None = None) -> Repeated:
    """Train until so many losses have been logged.

    Args:
        run: its folder, or what is kept of it: `segments.jsonl`, `metrics.csv`, `environment.jsonl`.
        losses: how many rows of the log to compare; fewer if the run has fewer.
        data: the shards, where they do not stand where the run read them.

    Raises:
        UserError: no such run, or the shards are not those it read.
    """
    if not is_run(run):
        raise CheckpointError(str(run), "is no run folder", "give one that train.py made, or an archive's run/")
    config, kept = segments.read(run)[0], rows(run)
    logged = read(run / METRICS).get(LOSS)
    if logged is None:
        raise CheckpointError(str(run / METRICS), "has no losses to compare with", "give a run with logger=csv")
    wanted = dict(islice(zip(logged.steps, logged.values, strict=True), losses))
    import_plugins(config.get("plugins") or [])
    with tempfile.TemporaryDirectory(prefix="groundup-repeat-") as place:
        again: Any = from_dict("verb", {"kind": "train", **config})
        again.runs, again.stop_steps = place, max(wanted)
        again.resume, again.extend_tokens, again.fresh = None, None, False
        again.callback = {"checkpoint": from_dict("callback", {"kind": "checkpoint", "every": None})}
        again.logger = {"csv": from_dict("logger", {"kind": "csv"})}
        if data is not None:
            again.data.path = str(data)
        if kept and (digest := Manifest.read(again.data.path).digest) != kept[0]["data"]:
            what = f"its manifest is {digest[:16]}, and the run read {kept[0]['data'][:16]}"
            raise ConfigError(f"data.path={again.data.path}", what, "prepare it as the run's data was, or give --data")
        again.check()
        if (run / decisions.FILE).exists():  # what was changed on the way is changed again
            shutil.copy(run / decisions.FILE, make_folder(again.folder()) / decisions.FILE)
        again.run()
        (made,) = (Path(place) / again.name).iterdir()
        mine = read(made / METRICS)[LOSS]
        (now,) = rows(made)
    found = differences(kept[0]["environment"], now["environment"]) if kept else {}
    again_by_step = dict(zip(mine.steps, mine.values, strict=True))
    return Repeated(
        {step: (value, again_by_step[step]) for step, value in wanted.items()},
        [f"{field}: {told(names)}" for field, names in found.items()],
    )


def main(arguments: list[str]) -> int:
    """The command: 0 where all is the same, 1 where it is not, 2 where it cannot be tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run, or one that holds only one")
    parser.add_argument("--data", type=Path, help="the shards, where they do not stand where the run read them")
    parser.add_argument("--losses", type=int, default=20, help="rows of the log to compare")
    options = parser.parse_args(arguments)
    return answered(lambda: _compared(options))


def _compared(options: argparse.Namespace) -> int:
    done = repeat(find(options.run), options.losses, options.data)
    for line in done.differences:
        print(f"not as it was: {line}")
    for step, (was, now) in done.losses.items():
        if was != now:
            print(f"step {step}: the loss was {was!r} and is {now!r}")
    print(json.dumps({"losses": len(done.losses), "to_step": max(done.losses), "bitwise_the_same": done.same}))
    return 0 if done.same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
