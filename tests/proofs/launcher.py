"""Claims of launching: a job goes on when a machine is lost and when one comes, and little goes between machines."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import witness
from machines import (
    ROOT,
    SECONDS,
    Launch,
    agent,
    alone,
    await_,
    differ_by,
    environment,
    launches,
    place,
    program,
    run_folder,
    start,
    two_namespaces,
)

from groundup.callback.tensors import read_all
from groundup.launcher.cordon import cordoned
from groundup.launcher.record import events

STEPS, WINDOWS, CONTEXT, EVERY, KILL, HOLD = 150, 12, 32, 10, 33, 75
ELASTIC = [
    "model.layers=2",
    "model.dropout=0.1",
    "model.width=32",
    "model.heads=2",
    f"data.context={CONTEXT}",
    f"data.batch_tokens={WINDOWS * CONTEXT}",
    "data.micro_batch=1",
    f"tokens={STEPS * WINDOWS * CONTEXT}",
    "callback=[checkpoint,witness]",
    f"callback.checkpoint.every={EVERY}",
    "callback.witness.ranks=4",
    f"callback.witness.hold={HOLD}",
]
SLOW = "read_timeout=600"
"""What torchrun bears where its processes get little of the machine."""

PATIENT = f"last_call_timeout=60,{SLOW}"
"""How long it waits for more machines once there are enough, so that four start."""

# Two machines, in two network namespaces
TENSOR, CROSSED = 2, 12
ROWS, LENGTH, WIDTH, BATCH = 2, 64, 64, 8
PARTED = [
    "model=llama3-8b",
    "model.layers=8",
    "model.dropout=0.0",
    f"model.width={WIDTH}",
    "model.heads=4",
    "model.kv_heads=2",
    "model.hidden=96",
    "model.attention_dropout=0.0",
    "model.vocabulary=null",
    "model.context=null",
    f"data.context={LENGTH}",
    f"data.batch_tokens={BATCH * LENGTH}",
    f"data.micro_batch={ROWS}",
    f"tokens={CROSSED * BATCH * LENGTH}",
    "callback=[checkpoint,crossing]",
    "callback.checkpoint.every=null",
]


# One that sleeps, and one that is not fit
LIMIT, ASLEEP, FEW, HOSTS = 20, 25, 40, ("node-a", "node-b")
WATCHED = [
    "model.layers=2",
    "model.dropout=0.1",
    "model.width=32",
    "model.heads=2",
    f"data.context={CONTEXT}",
    f"data.batch_tokens={4 * CONTEXT}",
    "data.micro_batch=1",
    f"tokens={FEW * 4 * CONTEXT}",
]


# A machine less, and one more


@functools.cache
def shrunk_and_grown(strategy: str) -> Path:
    """A run on four machines of one process each, of which that of rank 0 is lost, and another comes later.

    The last of the four keeps torchrun's own store: that machine must stay.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()

    def another(number: int) -> subprocess.Popen[bytes]:
        conf = f"is_host={int(number == 3)},{PATIENT}"
        command = agent("3:4", 1, endpoint, conf, "--max-restarts=3", "--local-addr=127.0.0.1")
        return start([*command, *program(strategy, *ELASTIC, f"strategy={strategy}")], f"{strategy}-{number}.log")

    def steps(world: int, since: int) -> int:
        """The last step of a launch of so many ranks, the first `since` left out."""
        found = [launch for launch in launches(strategy)[since:] if launch.world == world]
        return max((launch.begin + launch.done for launch in found), default=0)

    agents = [another(number) for number in range(4)]
    try:
        await_(lambda: steps(4, 0) >= KILL, agents)
        agents.pop(0).kill()
        lost = time.monotonic()
        await_(lambda: steps(3, 1) > 0, agents)
        print(f"{strategy}: three went on after {time.monotonic() - lost:.0f} s", file=sys.stderr)
        await_(lambda: steps(3, 1) >= HOLD, agents)
        agents.append(another(4))
        came = time.monotonic()
        await_(lambda: steps(4, 2) > 0, agents)
        print(f"{strategy}: four went on after {time.monotonic() - came:.0f} s", file=sys.stderr)
        ends = [one.wait(SECONDS) for one in agents]
    finally:
        for one in agents:
            one.send_signal(signal.SIGTERM)  # it ends its processes before itself
        for one in agents:
            one.wait(60)
    told = [f"{launch.world} from step {launch.begin}, {launch.done} steps" for launch in launches(strategy)]
    print(f"{strategy}: ranks {'; '.join(told)}; {time.monotonic() - began:.0f} s", file=sys.stderr)
    if any(ends) or [launch.world for launch in launches(strategy)] != [4, 3, 4]:
        raise RuntimeError(f"agents ended with {ends}")
    return run_folder(strategy)


def windows_not_used_once() -> tuple[float, int]:
    """Micro-batches of which the final weights have seen none or several, beside what one process read."""
    wrong, count = 0, 0
    for strategy in ("ddp", "fsdp"):
        shrunk_and_grown(strategy)
        (whole,) = launches_of_one()
        every = launches(strategy)
        lasted: dict[int, list[str]] = {}
        for launch, following in zip(every, [*every[1:], None], strict=True):
            until = STEPS if following is None else following.begin  # what came later was lost with its launch
            lasted |= {step: read for step, read in launch.read.items() if step < until}
        for step in range(STEPS):
            mine, wanted = Counter(lasted.get(step, [])), Counter(whole.read[step])
            wrong += ((mine - wanted) + (wanted - mine)).total()
            count += wanted.total()
        wrong += len(lasted.keys() - set(range(STEPS)))
    return float(wrong), count


def launches_of_one() -> list[Launch]:
    """Of the run of one process."""
    alone("one", *ELASTIC, "strategy=single", "callback.witness.ranks=1")
    return launches("one")


def lost_machine_differs_by() -> tuple[float, int]:
    """The largest difference of a loss, a gradient norm or a final weight from one process."""
    launches_of_one()
    worst, count = 0.0, 0
    for strategy in ("ddp", "fsdp"):
        shrunk_and_grown(strategy)
        differs, rows = differ_by(run_folder(strategy), run_folder("one"))
        mine, wanted = (read_all(run_folder(name) / f"checkpoints/step-{STEPS}") for name in (strategy, "one"))
        weights = max((mine[name] - wanted[name]).abs().max().item() for name in wanted if name.startswith("nets/"))
        print(f"{strategy}: losses and norms differ by {differs:.1e}, weights by {weights:.1e}", file=sys.stderr)
        worst, count = max(worst, differs, weights), count + rows
    return worst, count


@functools.cache
def across() -> Path:
    """A run of which each machine holds half of the layers, and its two processes share each of them."""
    spread = ["strategy=mesh", "strategy.pipeline=2", f"strategy.tensor={TENSOR}"]
    with two_namespaces() as names:
        agents = []
        for number, name in enumerate(names, 1):
            command = agent(
                "2", TENSOR, "10.77.0.1:29500", f"is_host={int(number == 1)},{SLOW}", f"--local-addr=10.77.0.{number}"
            )
            inside = ["ip", "netns", "exec", name, *command, *program("across", *PARTED, *spread)]
            agents.append(start(inside, f"across-{number}.log", GLOO_SOCKET_IFNAME="join"))
        try:
            ends = [one.wait(SECONDS) for one in agents]
        finally:
            for one in agents:
                one.send_signal(signal.SIGTERM)
                one.wait(60)
    if any(ends):
        raise RuntimeError(f"agents ended with {ends}: {(place() / 'across-1.log').read_text()[-3000:]}")
    return run_folder("across")


def sent() -> dict[str, float]:
    """Bytes a step between the machines and within them, once the first steps are over."""
    found: dict[str, float] = {}
    for path in (across() / witness.SENT).iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        (first, *before), (last, *after) = rows[4], rows[-1]
        for old, new in zip(before, after, strict=True):
            name, _, value = new.partition(":")
            each = (int(value) - int(old.partition(":")[2])) / (int(last) - int(first))
            found[name] = found.get(name, 0.0) + each / 2  # each byte is seen twice, where it leaves and where it comes
    return found


def crossing_beside_the_formula() -> tuple[float, int]:
    """By what share bytes between the machines differ from the activations of the boundary and their gradients."""
    formula = 2 * BATCH * LENGTH * WIDTH * 8  # there and back; each that shares a layer sends its own positions
    found = sent()
    print(f"bytes a step: {found}, by the formula {formula}", file=sys.stderr)
    return abs(found["join"] / formula - 1), formula


def crossing_beside_what_stays() -> tuple[float, int]:
    """Bytes between the machines as a share of those within."""
    found = sent()
    return found["join"] / found["lo"], int(found["lo"])


# A rank that sleeps, and a machine that computes wrong


def watched_run(name: str, *more: str) -> list[str]:
    """train.py for a short run of two ranks."""
    return program(name, *WATCHED, "strategy=ddp", f"launcher.hang_seconds={LIMIT}", *more)


@functools.cache
def slept() -> Path:
    """A run of two processes of which one falls asleep in a step, started by the local launcher."""
    more = ["callback=[checkpoint,sleeper]", f"callback.sleeper.step={ASLEEP}", f"callback.checkpoint.every={EVERY}"]
    own = ["launcher=local", "launcher.devices=2", "launcher.backoff_seconds=1"]
    one = start([sys.executable, *watched_run("slept", *more, *own)], "slept.log")
    if one.wait(SECONDS):
        raise RuntimeError(f"it ended with {one.returncode}: {(place() / 'slept.log').read_text()[-3000:]}")
    return run_folder("slept")


def sleeper_restarted_after() -> tuple[float, int]:
    """Seconds from the sleep to the restart as a multiple of the limit; the limit."""
    logs = slept() / "logs"
    told = {line["event"]: line for line in events(logs)}
    print(told["hung"]["why"], file=sys.stderr)
    named = told["hung"]["why"].split(": ")[1].startswith("rank 1 on ")
    dumped = sorted(path.name for path in (logs / "hangs/1").iterdir()) == ["rank-0.txt", "rank-1.txt"]
    if not named or not dumped or [line["event"] for line in events(logs)].count("restarted") != 1:
        return float("nan"), LIMIT
    begun = datetime.fromisoformat((slept() / witness.SLEPT).read_text())
    return (datetime.fromisoformat(told["restarted"]["time"]) - begun).total_seconds() / LIMIT, LIMIT


def sleeper_differs_by() -> tuple[float, int]:
    """The largest difference of a final weight from one process that was never disturbed."""
    return weights_differ_by(slept())


def weights_differ_by(run: Path) -> tuple[float, int]:
    """The largest difference of a final weight from the watched run of one process."""
    whole = alone("awake", *WATCHED, "strategy=single", "callback=[checkpoint]")
    mine, wanted = (read_all(folder / f"checkpoints/step-{FEW}") for folder in (run, whole))
    names = [name for name in wanted if name.startswith("nets/")]
    return max((mine[name] - wanted[name]).abs().max().item() for name in names), len(names)


@functools.cache
def cordoned_run() -> Path:
    """A run on two hosts under torchrun, one of which computes wrong products of matrices."""
    command = watched_run("cordoned", "callback=[checkpoint]", "launcher.health=true")
    planted = f"{ROOT / 'tests/shared/planted'}{os.pathsep}{environment()['PYTHONPATH']}"
    with two_namespaces() as names:
        agents = []
        for number, name in enumerate(names, 1):
            conf = f"is_host={int(number == 1)},{SLOW}"
            torchrun = agent("1:2", 1, "10.77.0.1:29500", conf, "--max-restarts=3", f"--local-addr=10.77.0.{number}")
            host = ["unshare", "--uts", "sh", "-c", f'hostname {HOSTS[number - 1]} && exec "$@"', "sh"]
            more = {"PYTHONPATH": planted} if number == 2 else {}
            inside = ["ip", "netns", "exec", name, *host, *torchrun, *command]
            agents.append(start(inside, f"cordoned-{number}.log", GLOO_SOCKET_IFNAME="join", **more))
        try:
            end = agents[0].wait(SECONDS)
        finally:
            for one in agents:
                one.send_signal(signal.SIGTERM)
                one.wait(60)
    logs = "\n".join((place() / f"cordoned-{number}.log").read_text()[-3000:] for number in (1, 2))
    if end:
        raise RuntimeError(f"the agent that stays ended with {end}: {logs}")
    print(cordoned(place() / "runs"), file=sys.stderr)
    return run_folder("cordoned")


def cordoned_beside_the_planted() -> tuple[float, int]:
    """Hosts that are cordoned and should not be, or the other way round, beside those that took part."""
    logs = cordoned_run() / "logs"
    found = set(cordoned(place() / "runs"))
    left = {line["node"] for line in events(logs, "unfit")}
    return float(len(found ^ {HOSTS[1]}) + len(left ^ {HOSTS[1]})), len(HOSTS)


def cordoned_differs_by() -> tuple[float, int]:
    """The largest difference of a final weight from one process that was never disturbed."""
    return weights_differ_by(cordoned_run())


def two_machines_differ_by() -> tuple[float, int]:
    """The largest difference of a loss or a gradient norm from one process."""
    return differ_by(across(), alone("undivided", *PARTED, "strategy=single"))
