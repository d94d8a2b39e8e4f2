"""What every layout of a run computes beside one process: losses and gradient norms, a row a network.

All in float64 but DeepSpeed's, which sums in fp32: those are compared with one process in fp32, where 1e-4 is the bar.

    python benchmarks/layouts.py                     # every network in every layout, about half an hour on two cores
    python benchmarks/layouts.py --world 2 --network llama

Each row is a run of train.py's own code: so many steps on real text, the same samples, as one torchrun per number
of ranks starts it. The rows of all ranks together are compared with those of one process. A line is one row in JSON:
the largest difference of a loss and of a gradient norm as a share of it, and the seconds.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers

STEPS, ROWS, CONTEXT = 20, 8, 32

NETWORKS: dict[str, list[str]] = {
    "gpt2": ["model=gpt2-124m", "model.layers=8", "model.width=16", "model.heads=2"],
    "neox": ["model=gpt-neox-20b", "model.layers=8", "model.width=16", "model.heads=2"],
    "llama": [
        "model=llama3-8b",
        "model.layers=8",
        "model.width=16",
        "model.heads=4",
        "model.kv_heads=2",
        "model.hidden=24",
    ],
    "mixtral": ["model=mixtral-8x7b", "model.layers=2", "model.width=16", "model.heads=4", "model.kv_heads=2"],
    "t5": ["model=t5-small", "model.layers=2", "model.encoder_layers=2", "model.width=16", "model.heads=2"],
    "nano": ["model.layers=8", "model.width=16", "model.heads=2"],
}
"""Small networks of each family, as overrides."""

OWN = {
    "mixtral": ["model.hidden=24", "model.experts=4"],
    "t5": ["model.hidden=32", "model.head_dim=8", "objective=span"],
}
"""What a network needs beside."""

DECODERS = ("gpt2", "neox", "llama", "nano")
ALL = tuple(NETWORKS)


@dataclass(frozen=True)
class Layout:
    """A way of spreading a run.

    Attributes:
        name: in the table.
        world: ranks.
        overrides: of the run.
        networks: that can be spread so.
        precision: of weights and sums.
    """

    name: str
    world: int
    overrides: tuple[str, ...]
    networks: tuple[str, ...] = ALL
    precision: str = "fp64"


def layouts() -> list[Layout]:
    """Every layout of the table; the first of a precision is what the others are compared with."""
    made = [Layout("single", 1, ("strategy=single",))]
    made += [Layout(f"single, micro-batches {ROWS // r}x{r}", 1, (f"data.micro_batch={r}",)) for r in (4, 8)]
    for world in (2, 4):
        made.append(Layout(f"ddp {world}", world, ("strategy=ddp",)))
        made.append(Layout(f"fsdp {world}", world, ("strategy=fsdp",)))
        for schedule in ("gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v"):
            way = ("strategy=pipeline", f"strategy.schedule={schedule}")
            made.append(Layout(f"pipeline {world}, {schedule}", world, way, DECODERS))
    for rows in (2, 4):
        cut = f"micro-batches {ROWS // rows}x{rows}"
        for kind in ("ddp", "fsdp", "tensor"):
            made.append(Layout(f"{kind} 2, {cut}", 2, (f"strategy={kind}", f"data.micro_batch={rows}")))
        made.append(Layout(f"pipeline 2, {cut}", 2, ("strategy=pipeline", f"data.micro_batch={rows}"), DECODERS))
    made.append(Layout("tensor 2", 2, ("strategy=tensor",)))
    made.append(Layout("tensor 2, whole sequences", 2, ("strategy=tensor", "strategy.sequence=false")))
    made.append(Layout("fsdp 4, 2 replicas", 4, ("strategy=fsdp", "strategy.replicas=2")))
    made.append(Layout("tensor 2 x data 2", 4, ("strategy=tensor", "strategy.ranks=2")))
    made.append(Layout("pipeline 2 x data 2", 4, ("strategy=pipeline", "strategy.ranks=2"), DECODERS))
    return made + (deepspeed() if importlib.util.find_spec("deepspeed") else [])


def deepspeed() -> list[Layout]:
    """ZeRO in every stage, and what it is compared with; weights of the third are cut however small they are."""
    made = [Layout("single, fp32", 1, ("strategy=single",), precision="fp32")]
    for stage in (1, 2, 3):
        way = ("strategy=deepspeed", f"strategy.stage={stage}", "strategy.whole_below=0", "strategy.bucket_megabytes=1")
        made.append(Layout(f"deepspeed 2, stage {stage}", 2, way, precision="fp32"))
    return made


def main(arguments: list[str]) -> int:
    """Run the table, or the part of it that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, action="append", help="numbers of ranks (default: all)")
    parser.add_argument("--network", action="append", choices=ALL, help="networks (default: all)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ranks:
        one_rank(Path(options.ranks), options.network, options.steps)
        return 0
    networks = options.network or list(ALL)
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as place:
        prepare(Path(place))
        for row in table(Path(place), networks, options.world, options.steps):
            peers.emit(benchmark="layouts", **row)
    return 0


def prepare(folder: Path) -> None:
    """Shards of the embedded text with a vocabulary that nothing divides."""
    command = [sys.executable, "prepare.py", f"path={folder}/data", "tokenizer.vocabulary=601", "source=[topics]"]
    subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.DEVNULL)


def table(folder: Path, networks: list[str], worlds: list[int] | None, steps: int) -> list[dict[str, Any]]:
    """A row for each network and layout: one torchrun for each number of ranks runs all of its layouts."""
    every = layouts()
    wanted = sorted({layout.world for layout in every if not worlds or layout.world in worlds} | {1})
    rows = []
    for world in wanted:
        begun = time.monotonic()
        launch(folder, world, networks, steps)
        print(f"{world} ranks: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        for network in networks:
            for layout in every:
                if layout.world == world and network in layout.networks:
                    first = next(other for other in every if other.precision == layout.precision)
                    alone, mine = read(folder, network, first), read(folder, network, layout)
                    rows.append(compared(network, layout, alone, mine, steps))
    return rows


def launch(folder: Path, world: int, networks: list[str], steps: int) -> None:
    """Run every layout of so many ranks, one after the other, in the same processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={world}"]
    command = [sys.executable, *torchrun, __file__, "--ranks", str(folder), f"--steps={steps}"]
    command += [f"--network={network}" for network in networks]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=peers.ROOT)
    if done.returncode:
        raise RuntimeError(f"{world} ranks ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")


def one_rank(folder: Path, networks: list[str], steps: int) -> None:
    """What a process of a torchrun does."""
    from hydra import compose, initialize_config_dir

    import groundup.verb.train  # noqa: F401  # registers the groups
    from groundup.core import ranks
    from groundup.core.config.compose import instantiate, store

    store()
    with initialize_config_dir(str(peers.ROOT / "conf"), version_base="1.3"):
        for layout in layouts():
            for network in networks:
                if layout.world != ranks.world() or network not in layout.networks:
                    continue
                config = instantiate(compose("train", overrides=overrides(folder, network, layout, steps)))
                config.check()
                config.run()
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def overrides(folder: Path, network: str, layout: Layout, steps: int) -> list[str]:
    """Of train.py, for a row of the table."""
    same = [
        f"data.path={folder}/data",
        f"data.context={CONTEXT}",
        f"data.batch_tokens={ROWS * CONTEXT}",
        "data.micro_batch=1",
    ]
    same += [
        f"tokens={ROWS * CONTEXT * (steps + 1)}",
        f"stop_steps={steps}",
        f"runs={folder}/{slug(layout)}",
        f"name={network}",
    ]
    same += [
        f"trainer.precision={layout.precision}",
        "trainer.compile=false",
        "trainer.log_every=1",
        "trainer.validate_every=null",
    ]
    same += ["model.vocabulary=null", "model.context=null", "model.dropout=0.0"]
    same += [
        "callback=[checkpoint]",
        "data.held_out_tokens=256",
        "data.workers=0",
        "data.verify=size",
        "optimizer=adamw",
    ]
    same += ["optimizer.rate=1e-3", "schedule=constant", *NETWORKS[network], *OWN.get(network, ())]
    own = {word.partition("=")[0]: word for word in [*same, *layout.overrides]}  # a key that comes again counts last
    return list(own.values())


def read(folder: Path, network: str, layout: Layout) -> dict[str, list[float]]:
    """Losses and gradient norms that a run's own metrics hold."""
    (run,) = (folder / slug(layout) / network).iterdir()
    found: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    with (run / "metrics.csv").open() as lines:
        for line in csv.DictReader(lines):
            name = line["name"].removeprefix("train/")
            if name in found:
                found[name].append(float(line["value"]))
    return found


def compared(
    network: str, layout: Layout, alone: dict[str, list[float]], mine: dict[str, list[float]], steps: int
) -> dict[str, Any]:
    """A row of the table."""
    worst = {}
    for name, values in alone.items():
        if not len(values) == len(mine[name]) == steps:
            raise RuntimeError(f"{network}, {layout.name}: {len(mine[name])} values of {name} in {steps} steps")
        worst[name] = max(abs(a - b) / abs(a) for a, b in zip(values, mine[name], strict=True))
    return {
        "network": network,
        "layout": layout.name,
        "ranks": layout.world,
        "precision": layout.precision,
        "steps": steps,
        "loss_differs_by": worst["loss"],
        "norm_differs_by": worst["gradient_norm"],
    }


def _path() -> str:
    """Where processes find groundup, and what else this one found."""
    return os.pathsep.join(filter(None, (str(peers.ROOT / "src"), os.environ.get("PYTHONPATH"))))


def slug(layout: Layout) -> str:
    """A folder's name for a layout."""
    return "".join(c if c.isalnum() else "-" for c in layout.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
