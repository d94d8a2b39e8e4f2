"""A writer of checkpoints that is stopped at every one of its calls, or loses what was not synced by then."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

import pytest

SHARED = Path(__file__).resolve().parents[1] / "shared"
sys.path.insert(0, str(SHARED))

from power import CHANCES, Disk, Recorder, Survivor, stops, tree  # noqa: E402
from saving import RUN, recorded, save  # noqa: E402

from groundup.callback.writing import Writer  # noqa: E402
from groundup.core import checkpoint  # noqa: E402
from groundup.core.errors import CheckpointError  # noqa: E402

STEPS = [1, 2, 3, 4, 5, 5, 6]
CHANGES = "openat open creat mkdir mkdirat write writev pwrite64 pwritev ftruncate truncate fsync fdatasync rename "
CHANGES += "renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat fallocate sendfile copy_file_range"
LOTS = 20
"""So many times the chances that are drawn by lot are drawn."""


@contextmanager
def record() -> Iterator[tuple[Recorder, dict[int, bytes], Path]]:
    """The calls of a writer, the manifests, and a folder in memory."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        (place / "recorded").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            recorder, manifests = recorded(place / "recorded", STEPS, patch.setattr)
        (place / "played").mkdir()
        Disk(recorder.calls).write_to(place / "played")
        assert tree(place / "played") == tree(place / "recorded"), "the record is not the whole of what was done"
        shutil.rmtree(place / "played")
        yield recorder, manifests, place
    finally:
        shutil.rmtree(place)


def lost(recorder: Recorder, manifests: dict[int, bytes], run: Path, done: int) -> bool:
    """Whether the loader finds no good checkpoint, or an older one than was reported by then."""
    reported = max((step for count, step in recorder.said if count <= done), default=None)
    try:
        found = checkpoint.newest(run, lambda _: None)
    except CheckpointError:
        return True
    if found is None:
        return reported is not None
    step = checkpoint.step_of(found)
    return (reported is not None and step < reported) or (found / checkpoint.MANIFEST).read_bytes() != manifests[step]


def stops_of_the_writer() -> tuple[float, int]:
    """Stops at a call, or in the midst of a write, after which something is lost, or the next save fails."""
    failed = tried = 0
    with record() as (recorder, manifests, place):
        for done, calls in stops(recorder.calls):
            (place / "tried").mkdir()
            Disk(calls).write_to(place / "tried")
            bad = lost(recorder, manifests, place / "tried" / RUN, done)
            save(Writer(asynchronous=True, alone=True), place / "tried" / RUN, 9)
            found = checkpoint.newest(place / "tried" / RUN, lambda _: None)
            failed += bad or found is None or checkpoint.step_of(found) != 9
            tried += 1
            shutil.rmtree(place / "tried")
    return float(failed), tried


def losses_of_power() -> tuple[float, int]:
    """Losses of power at a call after which something is lost that was reported."""
    failed = tried = 0
    with record() as (recorder, manifests, place):
        chances = [(names, left, 0) for names, left in CHANCES if names != "some"]
        chances += [(names, left, seed) for names, left in CHANCES if names == "some" for seed in range(LOTS)]
        for done, calls in stops(recorder.calls):
            disk = Disk(calls)
            for number, chance in enumerate(chances):
                if chance[0] == "some" and (number + done) % 5:
                    continue
                (place / "tried").mkdir()
                disk.survive(Survivor(*chance)).write_to(place / "tried")
                failed += lost(recorder, manifests, place / "tried" / RUN, done)
                tried += 1
                shutil.rmtree(place / "tried")
    return float(failed), tried


def calls_that_are_not_recorded() -> tuple[float, int]:
    """Changes to the run's files that the kernel saw a writer make and the record does not have, or the other way."""
    if shutil.which("strace") is None:
        raise SkipTest("there is no strace to see what the kernel sees")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        (place / "mine").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            recorder, _ = recorded(place / "mine", [1, 2, 3], patch.setattr)
        (place / "seen").mkdir()
        trace = ["-e", f"trace={','.join(CHANGES.split())}", "-o", place / "trace"]
        line = ["strace", "--seccomp-bpf", "-f", "-y", *trace, sys.executable, SHARED / "saving.py"]
        subprocess.run([*line, place / "seen", "3"], check=True)
        seen = _seen((place / "trace").read_text(errors="replace"), str(place / "seen"))
    mine = Counter(call.name for call in recorder.calls if call.name != "close")
    print(f"recorded {dict(mine)}; seen {dict(seen)}", file=sys.stderr)
    return float(((mine - seen) + (seen - mine)).total()), mine.total()


def _seen(trace: str, root: str) -> Counter[str]:
    """Calls about what is below a root that change something, by the names the record has for them."""
    names = {"mkdir": "make", "mkdirat": "make", "rename": "rename", "renameat": "rename", "renameat2": "rename"}
    names |= {"unlink": "unlink", "rmdir": "remove", "write": "write"}
    found: Counter[str] = Counter()
    for line in trace.splitlines():
        match = re.match(r"\d+\s+(\w+)\((.*)\)\s+= \d+", line)
        if match is None or root not in line:
            continue
        name, arguments = match[1], match[2]
        if name in ("open", "openat", "creat"):
            if "O_CREAT" in arguments or "O_TRUNC" in arguments:
                found["create"] += 1
        elif name == "unlinkat":
            found["remove" if "AT_REMOVEDIR" in arguments else "unlink"] += 1
        elif name == "fsync":
            inside = re.search(r"<(.*)>", arguments)
            found["sync_names" if inside is not None and _is_folder(inside[1]) else "sync"] += 1
        else:
            found[names.get(name, name)] += 1
    return found


def _is_folder(path: str) -> bool:
    """By its name: the folders of a run are few."""
    name = Path(path).name
    return name in ("seen", "runs", "nano", "0123", checkpoint.FOLDER) or name.startswith((".step-", "step-"))
