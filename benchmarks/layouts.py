"""What every layout of a run computes beside one process: losses and gradient norms, a row a network.

All in float64 but DeepSpeed's, which sums in fp32: those are compared with one process in fp32, where 1e-4 is the bar.

    python benchmarks/layouts.py                     # every network in every layout, a quarter of an hour on two cores
    python benchmarks/layouts.py --world 2 --network llama
    python benchmarks/layouts.py --cross             # some layouts, and each gone on with from the middle in each
    python benchmarks/layouts.py --layout "mesh 2x1x2" --network gpt2

Each row is a run of train.py's own code: so many steps on real text, the same samples, as one torchrun per number
of ranks starts it. What the run's own metrics hold is compared with those of one process. A line is one row in JSON:
the largest difference of a loss and of a gradient norm as a share of it; of the rank whose bytes of weights, gradients
and optimizer state are farthest from the formula's (groundup.scaling.memory), both, and the difference as a share.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import held  # noqa: F401  # a callback
import peers

import groundup.verb.train  # noqa: F401  # registers the groups
from groundup.core.config import from_dict
from groundup.scaling.memory import parameters_per_rank
from groundup.trainer.segments import read as read_segments

STEPS, ROWS, TOGETHER, CONTEXT = 20, 8, 2, 32
"""Steps of a run; windows of a step and of a micro-batch where nothing else is said; tokens of a window."""

NETWORKS: dict[str, list[str]] = {
    "gpt2": ["model=gpt2-124m", "model.layers=4", "model.width=16", "model.heads=2"],
    "neox": ["model=gpt-neox-20b", "model.layers=4", "model.width=16", "model.heads=2"],
    "llama": [
        "model=llama3-8b",
        "model.layers=4",
        "model.width=16",
        "model.heads=4",
        "model.kv_heads=2",
        "model.hidden=24",
    ],
    "mixtral": ["model=mixtral-8x7b", "model.layers=2", "model.width=16", "model.heads=4", "model.kv_heads=2"],
    "t5": ["model=t5-small", "model.layers=2", "model.encoder_layers=2", "model.width=16", "model.heads=2"],
    "nano": ["model.layers=4", "model.width=16", "model.heads=2"],
}
"""Small networks of each family, as overrides."""

OWN = {
    "mixtral": ["model.hidden=24", "model.experts=4"],
    "t5": ["model.hidden=32", "model.head_dim=8", "objective=span"],
}
"""What a network needs beside."""

DECODERS = ("gpt2", "neox", "llama", "nano")
SHARED = (*DECODERS, "mixtral")
SPARSE = ("mixtral",)
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
        beside: the layout it is compared with.
    """

    name: str
    world: int
    overrides: tuple[str, ...]
    networks: tuple[str, ...] = ALL
    precision: str = "fp64"
    beside: str = "single"

    @property
    def visible(self) -> bool:
        """Whether what a rank holds is in its parameters' place; DeepSpeed keeps it elsewhere."""
        return not self.name.startswith("deepspeed")


def layouts(named: str | None = None) -> list[Layout]:
    """Every layout of the table, or those that have a text in their name, and what they are compared with."""
    every = [Layout("single", 1, ("strategy=single",)), *spread()]
    wanted = {layout.beside for layout in every if named is None or named in layout.name}
    return [one for one in every if one.name in wanted or named is None or named in one.name]


def spread() -> list[Layout]:
    """Every other way to run the same."""
    made = [Layout(f"single, micro-batches {ROWS // r}x{r}", 1, (f"data.micro_batch={r}",)) for r in (1, 8)]
    deep = "model.layers=8"  # two stages on each of four ranks
    made.append(Layout("single, 8 layers", 1, ("strategy=single", deep), DECODERS, beside="single, 8 layers"))
    for world in (2, 4):
        made.append(Layout(f"ddp {world}", world, ("strategy=ddp",)))
        made.append(Layout(f"fsdp {world}", world, ("strategy=fsdp",)))
        for schedule in ("gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v"):
            way = ("strategy=pipeline", f"strategy.schedule={schedule}")
            way, beside = (way, "single") if world == 2 else ((*way, deep), "single, 8 layers")
            made.append(Layout(f"pipeline {world}, {schedule}", world, way, DECODERS, beside=beside))
    for rows in (1, 4):
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
    made.append(Layout("context 2", 2, ("strategy=context",), SHARED))
    made.append(Layout("context 2, micro-batches 2x4", 2, ("strategy=context", "data.micro_batch=4"), SHARED))
    made.append(Layout("fsdp 2, context 2", 2, ("strategy=fsdp", "strategy.context=2"), SHARED))
    made.append(Layout("context 4", 4, ("strategy=context",), SHARED))
    made.append(Layout("context 2 x data 2", 4, ("strategy=context", "strategy.ranks=2"), SHARED))
    made.append(Layout("fsdp 4, context 2 x data 2", 4, ("strategy=fsdp", "strategy.context=2"), SHARED))
    made.append(Layout("pipeline 2 x data 2", 4, ("strategy=pipeline", "strategy.ranks=2"), DECODERS))
    apart = "strategy.experts=2"
    made.append(Layout("experts 2", 2, ("strategy=mesh", apart), SPARSE))
    made.append(Layout("fsdp 2, experts 2", 2, ("strategy=fsdp", apart), SPARSE))
    made.append(Layout("data 2 x experts 2", 4, ("strategy=mesh", apart), SPARSE))
    made.append(Layout("fsdp 4, data 2 x experts 2", 4, ("strategy=fsdp", apart), SPARSE))
    made.append(Layout("pipeline 2 x experts 2", 4, ("strategy=mesh", "strategy.pipeline=2", apart), SPARSE))
    for sizes in ("1x2x2", "1x2x2 sharded", "2x1x2", "2x2x1", "2x2x2"):
        pipeline, data, tensor = map(int, sizes[:5].split("x"))
        way = ("strategy=mesh", f"strategy.pipeline={pipeline}", f"strategy.tensor={tensor}")
        way = (*way, "strategy.shard=true") if sizes.endswith("sharded") else way
        fitting = ALL if pipeline == 1 else DECODERS
        made.append(Layout(f"mesh {sizes}", pipeline * data * tensor, way, fitting))
    return made + (deepspeed() if importlib.util.find_spec("deepspeed") else [])


def deepspeed() -> list[Layout]:
    """ZeRO in every stage, and what it is compared with; weights of the third are cut however small they are."""
    fp32 = {"precision": "fp32", "beside": "single, fp32"}
    made = [Layout("single, fp32", 1, ("strategy=single",), **fp32)]
    for stage in (1, 2, 3):
        way = ("strategy=deepspeed", f"strategy.stage={stage}", "strategy.whole_below=0", "strategy.bucket_megabytes=1")
        made.append(Layout(f"deepspeed 2, stage {stage}", 2, way, **fp32))
    return made


CROSSED = ("single", "ddp 2", "fsdp 2", "tensor 2", "pipeline 2, 1f1b", "fsdp 4", "mesh 1x2x2 sharded", "mesh 2x1x2")
"""Layouts that go on with each other's checkpoints."""


@dataclass(frozen=True)
class Run:
    """A row of the table.

    Attributes:
        network: of which family.
        layout: how it is spread.
        source: the layout whose checkpoint of the middle it goes on with; None: it begins.
    """

    network: str
    layout: Layout
    source: Layout | None = None

    def place(self, folder: Path) -> Path:
        """Where it stands."""
        name = self.layout.name if self.source is None else f"{self.source.name} to {self.layout.name}"
        return folder / "".join(c if c.isalnum() else "-" for c in name)

    def folder(self, folder: Path) -> Path:
        """Its run folder, once it is there."""
        (found,) = (self.place(folder) / self.network).iterdir()
        return found


def main(arguments: list[str]) -> int:
    """Run the table, or the part of it that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, action="append", help="numbers of ranks (default: all)")
    parser.add_argument("--network", action="append", choices=ALL, help="networks (default: all)")
    parser.add_argument("--layout", help="layouts whose names have this in them (default: all)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cross", action="store_true", help="some layouts, and go on from the middle in each other")
    parser.add_argument("--ranks", help=argparse.SUPPRESS)
    parser.add_argument("--crossing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = [layout for layout in layouts(options.layout) if not options.world or layout.world in {1, *options.world}]
    if options.cross:
        chosen = [layout for layout in chosen if layout.name in CROSSED]
    networks = options.network or list(ALL)
    if options.ranks:
        Table(Path(options.ranks), networks, chosen, options.steps).one_rank(options.crossing)
        return 0
    with tempfile.TemporaryDirectory(prefix="groundup-bench-") as place:
        prepare(Path(place))
        table = Table(Path(place), networks, chosen, options.steps)
        for crossing in (False, True) if options.cross else (False,):
            for row in table.rows(arguments, crossing):
                peers.emit(benchmark="layouts", **row)
    return 0


def prepare(folder: Path) -> None:
    """Shards of the embedded text with a vocabulary that nothing divides."""
    command = [sys.executable, "prepare.py", f"path={folder}/data", "tokenizer.vocabulary=601", "source=[topics]"]
    subprocess.run(command, cwd=peers.ROOT, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Table:
    """Rows for each network and layout: one torchrun for each number of ranks runs all of its layouts.

    Attributes:
        folder: with the data, where the runs go.
        networks: their families.
        layouts: also those that others are compared with.
        steps: of each run.
    """

    folder: Path
    networks: list[str]
    layouts: list[Layout]
    steps: int

    def runs(self, world: int, crossing: bool) -> list[Run]:
        """Those of so many ranks that begin, or that go on with another's."""
        mine = [layout for layout in self.layouts if layout.world == world]
        sources: list[Layout | None] = [None]
        if crossing:
            sources = list(self.layouts)
        return [
            Run(network, layout, source)
            for source in sources
            for layout in mine
            for network in self.networks
            if network in layout.networks and (source is None or network in source.networks)
        ]

    def rows(self, arguments: list[str], crossing: bool) -> Iterator[dict[str, Any]]:
        """Compared with one process; what goes on in its own layout, with its own run that never stopped."""
        for world in sorted({layout.world for layout in self.layouts}):
            runs = self.runs(world, crossing)
            if not runs:
                continue
            self.launch(world, [*arguments, *(["--crossing"] if crossing else [])])
            for run in runs:
                single = next(layout for layout in self.layouts if layout.name == run.layout.beside)
                alone = Run(run.network, run.layout if run.source == run.layout else single)
                row = compared(self.folder, run, alone, self.steps - self.steps // 2 if crossing else self.steps)
                looked_at = run.layout.visible and not crossing
                yield {**row, **beside_formula(self.folder, run)} if looked_at else row

    def launch(self, world: int, arguments: list[str]) -> None:
        """Start so many ranks, which do all of their runs one after the other."""
        begin = time.monotonic()
        ranks = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={world}"]
        command = [sys.executable, "-m", "torch.distributed.run", *ranks, __file__, "--ranks", str(self.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, cwd=peers.ROOT)
        if done.returncode:
            raise RuntimeError(
                f"{world} ranks ended with {done.returncode}:\n{done.stdout[-800:]}\n{done.stderr[-6000:]}"
            )
        print(f"{world} ranks {' '.join(arguments)}: {time.monotonic() - begin:.0f} s", file=sys.stderr)

    def one_rank(self, crossing: bool) -> None:
        """What a process of a torchrun does."""
        from groundup.core import ranks
        from groundup.core.config.compose import composed

        for run in self.runs(ranks.world(), crossing):
            print(f"{run.network}, {run.place(self.folder).name}", flush=True)
            config = composed(peers.ROOT / "conf", "train", *overrides(self.folder, run, self.steps))
            config.check()
            config.run()
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def overrides(folder: Path, run: Run, steps: int) -> list[str]:
    """Of train.py, for a row of the table."""
    same = [f"data.path={folder}/data", f"data.context={CONTEXT}", f"data.batch_tokens={ROWS * CONTEXT}"]
    same += [f"tokens={ROWS * CONTEXT * (steps + 1)}", f"stop_steps={steps}"]  # it never ends, and makes no report
    same += [f"runs={run.place(folder)}", f"name={run.network}", "data.held_out_tokens=256"]
    same += [f"data.micro_batch={TOGETHER}"]
    same += [
        f"trainer.precision={run.layout.precision}",
        "trainer.compile=false",
        "trainer.log_every=1",
        "trainer.validate_every=null",
    ]
    same += ["model.vocabulary=null", "model.context=null", "model.dropout=0.0", "data.workers=0", "data.verify=size"]
    same += [
        "callback=[checkpoint,held]" if run.layout.visible else "callback=[checkpoint]",
        f"callback.checkpoint.every={max(1, steps // 2)}",
        "optimizer=adamw",
    ]
    same += ["optimizer.rate=1e-3", "schedule=constant", *NETWORKS[run.network], *OWN.get(run.network, ())]
    if run.source is not None:
        middle = Run(run.network, run.source).folder(folder) / "checkpoints" / f"step-{steps // 2}"
        same += [f"resume={middle}"]
    own = {word.partition("=")[0]: word for word in [*same, *run.layout.overrides]}  # what comes again counts last
    return list(own.values())


def read(run: Path, last: int) -> dict[str, list[float]]:
    """The last losses and gradient norms that a run's own metrics hold."""
    found: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    with (run / "metrics.csv").open() as lines:
        for line in csv.DictReader(lines):
            name = line["name"].removeprefix("train/")
            if name in found:
                found[name].append(float(line["value"]))
    if any(len(values) < last for values in found.values()):
        raise RuntimeError(f"{run} has fewer than {last} steps")
    return {name: values[-last:] for name, values in found.items()}


def compared(folder: Path, run: Run, alone: Run, last: int) -> dict[str, Any]:
    """A row of the table."""
    wanted, mine = (read(one.folder(folder), last) for one in (alone, run))
    worst = {
        name: max(abs(a - b) / abs(a) for a, b in zip(values, mine[name], strict=True))
        for name, values in wanted.items()
    }
    return {
        "network": run.network,
        "layout": run.layout.name,
        **({} if run.source is None else {"from": run.source.name}),
        "ranks": run.layout.world,
        "precision": run.layout.precision,
        "steps": last,
        "loss_differs_by": worst["loss"],
        "norm_differs_by": worst["gradient_norm"],
    }


def beside_formula(folder: Path, run: Run) -> dict[str, Any]:
    """What the ranks of a run hold, in bytes, beside the formula; fp64 takes eight for a number."""
    place, worst = run.folder(folder), {"holds": 0.0, "formula": 0.0, "held_differs_by": -1.0}
    config = read_segments(place)[0]
    model, strategy = (from_dict(name, config[name]) for name in ("model", "strategy"))
    grid = strategy.grid(run.layout.world)
    sharded = strategy.kind == "fsdp" or getattr(strategy, "shard", False)
    shares = getattr(strategy, "replicas", 1)
    folded = getattr(strategy, "schedule", None) == "zero_bubble_v"
    each = 8 if run.layout.precision == "fp64" else 4
    for rank in range(run.layout.world):
        noted = json.loads((place / f"held-{rank}.json").read_text())
        numbers = parameters_per_rank(model, grid, grid.place(rank), sharded=sharded, folded=folded) * shares
        for part, copies in (("weights", 1), ("gradients", 1), ("optimizer", 2)):
            differs = abs(noted[part] / (each * copies * numbers) - 1)
            if differs > worst["held_differs_by"]:
                formula = each * copies * numbers
                worst = {"holds": noted[part], "formula": round(formula), "held_differs_by": differs}
    return worst


def _path() -> str:
    """Where processes find groundup, and what else this one found."""
    return os.pathsep.join(filter(None, (str(peers.ROOT / "src"), os.environ.get("PYTHONPATH"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
