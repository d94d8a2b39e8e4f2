"""What every layout of a run computes beside one process: losses and gradient norms in float64, a row a network.

    python benchmarks/layouts.py                     # every network in every layout, about half an hour on two cores
    python benchmarks/layouts.py --world 2 --network llama
    python benchmarks/layouts.py --layout "mesh 2x1x2" --network gpt2

Each row is a run of train.py's own code: so many steps on real text, the same samples, as one torchrun per number
of ranks starts it. The rows of all ranks together are compared with those of one process. A line is one row in JSON:
the largest difference of a loss and of a gradient norm as a share of it, and the seconds.
"""

from __future__ import annotations

import argparse
import csv
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
    """

    name: str
    world: int
    overrides: tuple[str, ...]
    networks: tuple[str, ...] = ALL


def layouts(named: str | None = None) -> list[Layout]:
    """Every layout of the table, or those that have a text in their name, behind the one they are compared with."""
    single = Layout("single", 1, ("strategy=single",))
    return [single, *(layout for layout in spread() if named is None or named in layout.name)]


def spread() -> list[Layout]:
    """Every other way to run the same."""
    made = [Layout(f"single, micro-batches {ROWS // r}x{r}", 1, (f"data.micro_batch={r}",)) for r in (4, 8)]
    for world in (2, 4):
        made.append(Layout(f"ddp {world}", world, ("strategy=ddp",)))
        made.append(Layout(f"fsdp {world}", world, ("strategy=fsdp",)))
        for schedule in ("gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v"):
            way = ("strategy=pipeline", f"strategy.schedule={schedule}")
            made.append(Layout(f"pipeline {world}, {schedule}", world, way, DECODERS))
    for rows in (2, 4):
        cut = f"micro-batches {ROWS // rows}x{rows}"
        made += [
            Layout(f"{kind} 2, {cut}", 2, (f"strategy={kind}", f"data.micro_batch={rows}"))
            for kind in ("ddp", "fsdp", "tensor")
        ]
        made.append(Layout(f"pipeline 2, {cut}", 2, ("strategy=pipeline", f"data.micro_batch={rows}"), DECODERS))
    made.append(Layout("tensor 2", 2, ("strategy=tensor",)))
    made.append(Layout("tensor 2, whole sequences", 2, ("strategy=tensor", "strategy.sequence=false")))
    made.append(Layout("fsdp 4, 2 replicas", 4, ("strategy=fsdp", "strategy.replicas=2")))
    made.append(Layout("tensor 2 x data 2", 4, ("strategy=tensor", "strategy.ranks=2")))
    made.append(Layout("pipeline 2 x data 2", 4, ("strategy=pipeline", "strategy.ranks=2"), DECODERS))
    for sizes in ("1x2x2", "1x2x2 sharded", "2x1x2", "2x2x1", "2x2x2"):
        pipeline, data, tensor = map(int, sizes[:5].split("x"))
        way = ("strategy=mesh", f"strategy.pipeline={pipeline}", f"strategy.tensor={tensor}")
        way = (*way, "strategy.shard=true") if sizes.endswith("sharded") else way
        fitting = ALL if pipeline == 1 else DECODERS
        made.append(Layout(f"mesh {sizes}", pipeline * data * tensor, way, fitting))
    return made


def main(arguments: list[str]) -> int:
    """Run the table, or the part of it that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, action="append", help="numbers of ranks (default: all)")
    parser.add_argument("--network", action="append", choices=ALL, help="networks (default: all)")
    parser.add_argument("--layout", help="layouts whose names have this in them (default: all)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ranks:
        one_rank(Path(options.ranks), options.network, layouts(options.layout), options.steps)
        return 0
    networks = options.network or list(ALL)
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as place:
        prepare(Path(place))
        for row in table(Path(place), networks, options.world, options.layout, options.steps):
            peers.emit(benchmark="layouts", **row)
    return 0


def prepare(folder: Path) -> None:
    """Shards of the embedded text with a vocabulary that nothing divides."""
    command = [sys.executable, "prepare.py", f"path={folder}/data", "tokenizer.vocabulary=601", "source=[topics]"]
    subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.DEVNULL)


def table(
    folder: Path, networks: list[str], worlds: list[int] | None, named: str | None, steps: int
) -> list[dict[str, Any]]:
    """A row for each network and layout: one torchrun for each number of ranks runs all of its layouts."""
    every = layouts(named)
    wanted = sorted({layout.world for layout in every if not worlds or layout.world in worlds} | {1})
    rows = []
    for world in wanted:
        begun = time.monotonic()
        launch(folder, world, networks, named, steps)
        print(f"{world} ranks: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        for network in networks:
            alone = read(folder, network, every[0])
            mine = [layout for layout in every if layout.world == world and network in layout.networks]
            rows += [compared(network, layout, alone, read(folder, network, layout), steps) for layout in mine]
    return rows


def launch(folder: Path, world: int, networks: list[str], named: str | None, steps: int) -> None:
    """Run every layout of so many ranks, one after the other, in the same processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={world}"]
    command = [sys.executable, *torchrun, __file__, "--ranks", str(folder), f"--steps={steps}"]
    command += [f"--network={network}" for network in networks] + ([f"--layout={named}"] if named else [])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(peers.ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=peers.ROOT)
    if done.returncode:
        raise RuntimeError(f"{world} ranks ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")


def one_rank(folder: Path, networks: list[str], every: list[Layout], steps: int) -> None:
    """What a process of a torchrun does."""
    from hydra import compose, initialize_config_dir

    import groundup.verb.train  # noqa: F401  # registers the groups
    from groundup.core import ranks
    from groundup.core.config.compose import instantiate, store

    store()
    with initialize_config_dir(str(peers.ROOT / "conf"), version_base="1.3"):
        for layout in every:
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
    same += ["trainer.precision=fp64", "trainer.compile=false", "trainer.log_every=1", "trainer.validate_every=null"]
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
        "steps": steps,
        "loss_differs_by": worst["loss"],
        "norm_differs_by": worst["gradient_norm"],
    }


def slug(layout: Layout) -> str:
    """A folder's name for a layout."""
    return "".join(c if c.isalnum() else "-" for c in layout.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
