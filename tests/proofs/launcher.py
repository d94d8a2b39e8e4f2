"""Claims of launching: a job goes on when a machine is lost and when one comes, and little goes between machines."""

from __future__ import annotations

import functools
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import witness
from machines import (
    SECONDS,
    Launch,
    agent,
    alone,
    await_,
    differ_by,
    launches,
    place,
    program,
    run_folder,
    start,
    two_namespaces,
)

from groundup.callback.tensors import read_all

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


def two_machines_differ_by() -> tuple[float, int]:
    """The largest difference of a loss or a gradient norm from one process."""
    return differ_by(across(), alone("undivided", *PARTED, "strategy=single"))
