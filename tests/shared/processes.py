"""Processes that tests start, forked from one that has imported what they need: a start takes no seconds of imports.

What they run is a script, with its own arguments, environment and output, as `python SCRIPT ...` or torchrun run it.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import runpy
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from groundup.core import ranks

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["warm"])
_FOLDER = tempfile.mkdtemp(prefix="said-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@functools.cache
def _serve() -> None:
    """Start the process that is forked from."""
    # Older Pythons do not tell it where this one looks for modules, and it is silent about those it does not find.
    places = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(places)):
        forkserver.ensure_running()


@dataclass
class Started:
    """A process on its way."""

    process: ForkServerProcess
    said: Path

    def wait(self, seconds: float) -> int:
        """Its exit code, negative a signal's number; it is killed when the time is over."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def output(self) -> str:
        """All it wrote so far."""
        return self.said.read_text(encoding="utf-8", errors="replace")


def start(
    script: Path | str,
    arguments: Sequence[object] = (),
    environment: Mapping[str, object] | None = None,
    place: Path | None = None,
) -> Started:
    """Start a script.

    Args:
        script: its file.
        arguments: of its command line.
        environment: what it finds beside this process's own variables.
        place: the folder it starts in; None: this process's.
    """
    said = Path(_FOLDER, f"{time.monotonic_ns()}.txt")
    said.touch()
    words = [str(script), *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if name not in ranks.NAMES}
    variables = {"OMP_NUM_THREADS": "1", **kept, **{name: str(value) for name, value in (environment or {}).items()}}
    _serve()
    process = _SERVER.Process(target=_become, args=(words, variables, str(place or Path.cwd()), str(said)))
    process.start()
    return Started(process, said)


def launch(script: Path, *arguments: object, processes: int) -> list[Started]:
    """Start so many ranks on this machine, which nobody watches over; 0: one process that is no rank."""
    if not processes:
        return [start(script, arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(script, arguments, {**where, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(processes)]


def together(script: Path, *arguments: object, processes: int, seconds: float = 240) -> None:
    """Let so many ranks run to their end; where one fails, all are ended, and it is told what they wrote."""
    started = launch(script, *arguments, processes=processes)
    limit = time.monotonic() + seconds
    while any(one.process.exitcode is None for one in started):
        late = time.monotonic() > limit
        if late or any(one.process.exitcode for one in started):
            time.sleep(0 if late else 3)  # for the others' own last words
            for one in started:
                one.wait(0)
            break
        time.sleep(0.02)
    codes = [one.process.exitcode for one in started]
    assert codes == [0] * len(codes), f"ended with {codes}\n" + "\n".join(one.output() for one in started)


def _become(words: list[str], variables: dict[str, str], place: str, said: str) -> None:
    file = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(place)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
