"""Whether this machine is fit to take part in a job: memory, disk, GPUs, what they compute and how they exchange it.

    python -m groundup.launcher.health            # a line for each check; exit code 1 if one fails
    python -m groundup.launcher.health --devices=8 --folder=runs --cordon

What is computed is computed by processes of their own, so that a device that hangs does not hang this one. Rates are
kept in `health.jsonl` beside the list of cordoned nodes, and held against what the same device did before, here and
on other nodes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.core import ranks
from groundup.core.errors import UserError, answered
from groundup.core.files import append_json, make_folder, read_lines
from groundup.launcher.cordon import NodeError, cordon
from groundup.launcher.processes import Process
from groundup.launcher.record import now

PROBE = "groundup.strategy.probe"
"""The program that computes and exchanges; it needs torch, which nothing here does."""

FILE = "health.jsonl"
PROBE_SECONDS = 300.0
FREE_BYTES, FREE_MEMORY = 1 << 30, 0.05
LEAST, JUDGES = 0.5, 3
"""Below so much of the median of at least so many earlier figures of the same device a rate is a fault."""

_WRITTEN = 1 << 25


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check.
        fault: what is wrong, None if nothing is.
        told: what there is to say of it.
        rates: by name, to be held against earlier ones; higher is better.
        device: whose the rates are.
        of_node: whether a fault is the node's own. A disk may be shared, and be as full from everywhere.
    """

    name: str
    fault: str | None
    told: str
    rates: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    of_node: bool = True

    def __str__(self) -> str:
        return f"{self.name:<8} {'FAULT' if self.fault else 'ok':<6} {self.fault or self.told}"


def memory() -> Finding:
    """Memory that is free, and errors of it that the system counted and could not correct."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Finding("memory", None, "this system does not tell")
    amounts = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    free, total = amounts["MemAvailable"], amounts["MemTotal"]
    errors = 0
    for path in Path("/sys/devices/system/edac/mc").glob("mc*/ue_count"):
        with suppress(OSError, ValueError):
            errors += int(path.read_text())
    told = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    fault = f"{told}, less than {FREE_MEMORY:.0%}" if free < FREE_MEMORY * total else None
    if errors:
        fault = f"{errors} errors that could not be corrected since the machine started"
    return Finding("memory", fault, told)


def disk(folder: Path) -> Finding:
    """Whether a folder has room, takes what is written and gives it back; how fast it takes it is told."""
    data = secrets.token_bytes(1 << 20)
    try:
        make_folder(folder)
        free = shutil.disk_usage(folder).free
        if free < FREE_BYTES:
            return Finding("disk", f"{free >> 20} MiB free in {folder}", "", of_node=False)
        with tempfile.TemporaryFile(dir=folder) as file:
            begun = time.perf_counter()
            for _ in range(_WRITTEN // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            rate = _WRITTEN / (time.perf_counter() - begun)
            file.seek(0)
            if any(file.read(len(data)) != data for _ in range(_WRITTEN // len(data))):
                return Finding("disk", f"{folder} gives back other bytes than were written", "", of_node=False)
    except (OSError, UserError) as error:
        return Finding("disk", f"{folder} cannot be written ({error})", "", of_node=False)
    told = f"{free / 2**30:.1f} GiB free, {rate / 1e6:.0f} MB/s written"
    return Finding("disk", None, told, of_node=False)


def gpus() -> Finding | None:
    """What the driver says of NVIDIA's GPUs; None where there are none."""
    if not has_gpus():
        return None
    if importlib.util.find_spec("pynvml") is None:
        return Finding("gpu", None, "not asked: pip install -r requirements-health.txt")
    from groundup.launcher import nvidia

    try:
        found = nvidia.faults()
    except nvidia.NVMLError as error:
        return Finding("gpu", f"the driver does not answer ({error})", "")
    wrong = [f"{name}: {', '.join(faults)}" for name, faults in found if faults]
    return Finding("gpu", "; ".join(wrong) or None, f"{len(found)} without errors of memory, none held down")


def has_gpus() -> bool:
    """Whether NVIDIA's driver is loaded."""
    return Path("/dev/nvidiactl").exists()


def computed(devices: int) -> list[Finding]:
    """What so many processes, one for each device, compute and exchange."""
    with tempfile.TemporaryDirectory(prefix="health-") as place:
        codes, lines = _probed(devices, Path(place))
    found = []
    for rank, (code, said) in enumerate(zip(codes, lines, strict=True)):
        try:
            told: dict[str, Any] = json.loads(said[-1])
        except (IndexError, ValueError):
            what = f"ended with {code}" if code is not None else f"did not end within {PROBE_SECONDS:g} s"
            found.append(Finding("product", f"device {rank} {what}: {said[-1] if said else 'it said nothing'}", ""))
            continue
        flops = {name.removesuffix("_flops"): rate for name, rate in told.items() if name.endswith("_flops")}
        wrong = [name for name in flops if not told[f"{name}_right"]]
        fault = f"device {rank} ({told['device']}) computes wrong products in {', '.join(wrong)}" if wrong else None
        rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in flops.items())
        # what else a CPU has to do just then is no fault of it
        kept = {} if told["device"] == "cpu" else {f"flops {name}": rate for name, rate in flops.items()}
        found.append(Finding("product", fault, f"device {rank} right, {rates}", kept, told["device"]))
        if rank == 0 and "bus_bytes" in told:
            rate = told["bus_bytes"]
            fault = None if told["sum_right"] else "sums over the devices are wrong"
            kept = {} if told["device"] == "cpu" else {f"bus {devices}": rate}
            found.append(Finding("exchange", fault, f"{rate / 1e9:.3g} GB/s over {devices}", kept, told["device"]))
    return found


def _probed(devices: int, place: Path) -> tuple[list[int | None], list[list[str]]]:
    """Exit codes of the processes, None for one that had to be ended, and the last lines they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    try:
        for rank in range(devices):
            values = (rank, devices, rank, devices, "127.0.0.1", port)
            variables = {name: str(value) for name, value in zip(ranks.NAMES, values, strict=True)}
            variables |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "OMP_NUM_THREADS": "1"}
            log = place / f"rank-{rank}.log"
            processes.append(Process(rank, [sys.executable, "-m", PROBE], variables, log))
        end = time.monotonic() + PROBE_SECONDS
        codes = [process.ended(max(0.0, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [process.last_lines(1) for process in processes]


def slower(finding: Finding, earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """What is much slower than the same device was before, here and elsewhere; None if nothing is."""
    for name, rate in finding.rates.items():
        known = [line["rates"][name] for line in earlier if line["device"] == finding.device and name in line["rates"]]
        usual = statistics.median(known) if len(known) >= JUDGES else 0.0
        if rate < LEAST * usual:
            return f"{name} at {rate:.3g}/s, {rate / usual:.0%} of the {usual:.3g}/s usual for {finding.device}"
    return None


def check(devices: int, folder: Path, shared: Path) -> list[Finding]:
    """Look at everything, and keep the rates of what is right.

    Args:
        devices: processes that compute here.
        folder: which must take what is written.
        shared: where rates of all nodes are kept.

    Raises:
        StorageError: they cannot be kept.
    """
    found = [memory(), disk(folder), gpus(), *computed(devices)]
    earlier, judged = read_lines(shared / FILE), []
    for finding in found:
        if finding is None:
            continue
        slow = slower(finding, earlier)
        if finding.fault is None and slow is not None:
            finding = Finding(finding.name, slow, finding.told)
        elif finding.fault is None and finding.rates:
            line = {"time": now(), "node": ranks.node(), "device": finding.device, "rates": finding.rates}
            append_json(shared / FILE, line)
        judged.append(finding)
    return judged


def examine(devices: int, folder: Path, shared: Path) -> None:
    """Check this machine, and cordon it if it is not fit by a fault of its own.

    Raises:
        NodeError: it is not fit.
    """
    print(f"{ranks.node()}: checking this machine before it starts (launcher.health=false leaves it out)", flush=True)
    found = check(devices, folder, shared)
    print("\n".join(f"{ranks.node()}: {finding}" for finding in found), flush=True)
    why = "; ".join(finding.fault for finding in found if finding.fault)
    if any(finding.fault and finding.of_node for finding in found):
        cordon(shared, ranks.node(), why)
        raise NodeError(ranks.node(), f"is not fit and now cordoned ({why})", "mend it, then lift it")
    if why:
        raise NodeError(ranks.node(), f"is not fit ({why})", "mend it")


def main(arguments: list[str]) -> int:
    """Do what the command line says; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m groundup.launcher.health", description="Is this machine fit?")
    parser.add_argument("--devices", type=int, default=None, help="how many compute (default: the GPUs, or 1)")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="that is written to (default: %(default)s)")
    parser.add_argument("--cordon", action="store_true", help="cordon the node if it is not fit")
    given = parser.parse_args(arguments)
    devices = given.devices or len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or 1
    if given.cordon:
        examine(devices, given.folder, given.folder)
        return 0
    found = check(devices, given.folder, given.folder)
    print("\n".join(map(str, found)))
    return 1 if any(finding.fault for finding in found) else 0


if __name__ == "__main__":
    sys.exit(answered(lambda: main(sys.argv[1:])))
