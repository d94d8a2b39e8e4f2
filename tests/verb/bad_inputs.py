"""Bad inputs, each with what a person must be told: shared by the tests (what is said) and the proof (how fast)."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundup.sweep.config import Parameter, Search
from groundup.sweep.study import Study

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "data.context=32",
    "data.batch_tokens=256",
    "data.micro_batch=4",
    "tokens=1024",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.validate_every=null",
    "callback=[checkpoint]",
    "callback.checkpoint.every=2",
]


@dataclass
class World:
    """A prepared data folder and a finished run in a temporary place.

    Attributes:
        place: the temporary folder.
        data: a data folder.
        runs: the folder of runs, which holds one finished run.
    """

    place: Path
    data: Path
    runs: Path

    @property
    def run(self) -> Path:
        """The finished run's folder."""
        (folder,) = (path for path in (self.runs / "bad").iterdir() if path.is_dir())
        return folder


@dataclass
class Case:
    """One bad input.

    Attributes:
        name: what is bad, as a test's name.
        verb: the program.
        arguments: its command line; {data}, {runs}, {place} and {run} are filled in.
        says: pieces that the one line must hold.
        spoil: makes the bad thing in the world before.
        plain: run without root's right to read what others own.
    """

    name: str
    verb: str
    arguments: list[str]
    says: list[str]
    spoil: Callable[[World], None] = field(default=lambda world: None)
    plain: bool = False


def make(place: Path) -> World:
    """Prepare a small text and train two checkpoints' worth of steps on it."""
    text = place / "text"
    text.mkdir(parents=True)
    for number in range(60):
        (text / f"{number}.txt").write_text(f"Chapter {number}. " + "The quick brown fox jumps over the dog. " * 12)
    world = World(place, place / "data", place / "runs")
    call(
        world, "prepare.py", ["source=[text]", f"source.text.path={text}", "tokenizer=bytes", "path={data}"], check=True
    )
    call(world, "train.py", train(), check=True)
    return world


def train(*more: str) -> list[str]:
    """The command line of the world's run, and more."""
    return ["data.path={data}", "runs={runs}", "name=bad", *TINY, *more]


def sweep(*more: str) -> list[str]:
    """The command line of a search in the world, and more."""
    return ["--multirun", "hydra/sweeper=groundup", "sweep=search", *train(*more)]


def space(parameter: str) -> str:
    """The override that adds a parameter `x`."""
    return f"+sweep.space={{{{x: {{{{{parameter}}}}}}}}}"


def call(
    world: World, verb: str, arguments: list[str], *, check: bool = False, plain: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a verb in the world."""
    fill = {"data": world.data, "runs": world.runs, "place": world.place}
    if "{run}" in " ".join(arguments):
        fill["run"] = world.run
    filled = [
        argument.format(**fill) if argument.count("{") == argument.count("}") else argument for argument in arguments
    ]
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return subprocess.run(
        [*(unprivileged if plain and os.geteuid() == 0 else []), sys.executable, verb, *filled],
        cwd=ROOT,
        check=check,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def tree(folder: Path) -> str:
    """A hash of every path and byte below a folder."""
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        seen.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()


def shard(world: World) -> Path:
    """A shard of the training split."""
    return min((world.data / "train").rglob("*.bin"))


def truncate(world: World) -> None:
    """Cut the end off a shard."""
    path = shard(world)
    path.write_bytes(path.read_bytes()[:-10])


def flip(world: World) -> None:
    """Flip one bit of a shard."""
    data = bytearray(shard(world).read_bytes())
    data[len(data) // 2] ^= 1
    shard(world).write_bytes(bytes(data))


def other_tokenizer(world: World) -> None:
    """Put another tokenizer beside the shards."""
    card = next((world.data / "tokenizer").glob("*.json"))
    values = json.loads(card.read_text())
    values["digest"] = "0" * 64
    card.write_text(json.dumps(values))


def damage_checkpoints(world: World) -> None:
    """Flip a bit in every checkpoint."""
    for path in (world.run / "checkpoints").rglob("*.distcp"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


def latin(world: World) -> None:
    """Write a text that is not UTF-8."""
    (world.place / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 50)


def empty(world: World) -> None:
    """Write an empty text."""
    (world.place / "empty.txt").write_text("")


def private(world: World) -> None:
    """Write a text that only another user may read."""
    path = world.place / "private.txt"
    path.write_text("Only for me. " * 50)
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


def broken_lines(world: World) -> None:
    """Write JSON lines of which the second is cut."""
    (world.place / "lines.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two\n'))


def fieldless(world: World) -> None:
    """Write JSON lines without the field that is read."""
    (world.place / "lines.jsonl").write_text('{"body": "one"}\n')


def no_manifest(world: World) -> None:
    """Take the manifest away."""
    (world.data / "manifest.json").unlink()


def no_shard(world: World) -> None:
    """Take a shard away."""
    shard(world).unlink()


def other_study(world: World) -> None:
    """Begin a study with another space."""
    Study(world.runs / "search", Search(space={"y": Parameter(key="seed", choices=[0, 1])}), {})


def file_as_study(world: World) -> None:
    """Put a file where the study's folder would be."""
    (world.runs / "search").touch()


CASES = [
    Case("unknown key", "train.py", ["model.wdith=64"], ["model.wdith", "did you mean width?"]),
    Case("unknown option of a group", "train.py", ["optimizer=adamm"], ["optimizer=adamm", "did you mean adam"]),
    Case("unknown group", "train.py", ["modle=nano"], ["modle", "did you mean model?"]),
    Case("wrong type", "train.py", ["model.width=wide"], ["model.width=wide", "Integer"]),
    Case("stray key", "train.py", train("+typo=1"), ["typo", "is not an option"]),
    Case("stray key inside a component", "train.py", train("+model.wide=1"), ["model.wide", "is not an option"]),
    Case("callback that was not chosen", "train.py", train("callback.samples.every=3"), ["callback=[...,samples]"]),
    Case("not an override", "train.py", ["model.width"], ["model.width", "key=value"]),
    Case("unknown preset", "train.py", ["experiment=nothing"], ["experiment=nothing", "no such option"]),
    Case("prefixes without their mask", "train.py", train("objective=prefix"), ["objective=prefix", "model.mask=prefix"]),
    Case("a mask without its objective", "train.py", train("model.mask=prefix"), ["model.mask=prefix", "objective=prefix"]),
    Case("rotary positions on odd channels", "train.py", train("model.head_dim=7"), ["model.head_dim=7", "pairs of them"]),
    Case("muP with SGD", "train.py", train("model.mup_base=16", "optimizer=sgd"), ["optimizer=sgd", "model.mup_base"]),
    Case("heads not dividing width", "train.py", train("model.heads=3"), ["model.heads=3", "does not divide"]),
    Case("negative rate", "train.py", train("optimizer.adamw_rate=-1"), ["optimizer.adamw_rate=-1", "above 0"]),
    Case("zero steps", "train.py", train("tokens=0"), ["tokens=0", "at least 1"]),
    Case("dropout of one", "train.py", train("model.dropout=1.0"), ["model.dropout=1.0", "below 1"]),
    Case("warm-up given twice", "train.py", train("schedule.warmup_steps=2", "schedule.warmup_tokens=9"), ["warmup"]),
    Case("warm-up longer than the run", "train.py", train("schedule.warmup_steps=99"), ["schedule.warmup_steps=99"]),
    Case("batch that is no multiple of the context", "train.py", train("data.batch_tokens=100"), ["data.batch_tokens=100"]),
    Case("context longer than the model's", "train.py", train("model.context=16"), ["data.context=32", "model.context=16"]),
    Case("context longer than the held-out text", "train.py", train("data.context=65536", "data.batch_tokens=65536"), ["data.context=65536"]),
    Case("vocabulary smaller than the tokenizer's", "train.py", train("model.vocabulary=100"), ["model.vocabulary=100", "257"]),
    Case("weight of an unknown source", "train.py", train("+data.weights.txet=1"), ["txet", "text"]),
    Case("missing data folder", "train.py", train("data.path={place}/none"), ["none", "prepare.py"]),
    Case("missing manifest", "train.py", train(), ["manifest.json", "prepare.py"], no_manifest),
    Case("missing shard", "train.py", train(), [".bin", "prepare.py"], no_shard),
    Case("truncated shard", "train.py", train(), [".bin", "prepare.py"], truncate),
    Case("bit-flipped shard", "train.py", train(), [".bin", "prepare.py"], flip),
    Case("another tokenizer than the shards'", "train.py", train(), ["tokenizer"], other_tokenizer),
    Case("resume from nothing", "train.py", train("resume={place}/step-9"), ["resume=", "step-9"]),
    Case("another model's checkpoint", "train.py", train("model.width=64", "resume={run}/checkpoints/step-4"), ["another model"]),
    Case("no good checkpoint left", "train.py", train(), ["no good checkpoint", "fresh=true"], damage_checkpoints),
    Case("change of what cannot change", "train.py", train("changes=[{{tokens: 512, set: {{model.width: 64}}}}]"), ["model.width", "cannot change"]),
    Case("change to a value refused", "train.py", train("changes=[{{tokens: 512, set: {{optimizer.rate: -1}}}}]"), ["optimizer.rate=-1"]),
    Case("plugin that is not installed", "train.py", train("plugins=[no_such_thing]"), ["no_such_thing", "cannot be imported"]),
    Case("accelerator that is not there", "train.py", train("trainer.accelerator=mps"), ["trainer.accelerator=mps", "cpu"]),
    Case("search without multirun", "train.py", train("sweep=lr_batch"), ["sweep.study=lr_batch", "add --multirun"]),
    Case("several values beside a search", "train.py", sweep("seed=0,1"), ["seed=0,1", "sweep.space"]),
    Case("unknown key in a space", "train.py", sweep(space("key: optimizer.rat, low: 0.1, high: 1")), ["sweep.space.x", "did you mean rate?"]),
    Case("unknown word in a space", "train.py", sweep(space("kye: seed, low: 0.1, high: 1")), ["sweep.space.x.kye"]),
    Case("bounds in the wrong order", "train.py", sweep(space("key: optimizer.rate, low: 2, high: 1")), ["sweep.space.x.low=2", "high=1"]),
    Case("bounds an option does not take", "train.py", sweep(space("key: optimizer.rate, low: -1, high: 1")), ["sweep.space.x", "optimizer.rate=-1.0", "above 0"]),
    Case("study made with another space", "train.py", sweep(space("key: optimizer.rate, low: 1, high: 2")), ["sweep.study=search", "another space"], other_study),
    Case("study folder that is a file", "train.py", sweep(space("key: optimizer.rate, low: 1, high: 2")), ["runs/search", "a file stands"], file_as_study),
    Case("run that is not there", "evaluate.py", ["run={place}/nope"], ["nope", "is not a folder", "train a model first"]),
    Case("no source", "prepare.py", ["source=[]", "path={place}/new"], ["source=[]", "source=[bible,stdlib]"]),
    Case("missing text", "prepare.py", ["source=[text]", "source.text.path={place}/no.txt", "path={place}/new"], ["no.txt"]),
    Case("empty corpus", "prepare.py", ["source=[text]", "source.text.path={place}/empty.txt", "path={place}/new"], ["empty.txt"], empty),
    Case("invalid UTF-8", "prepare.py", ["source=[text]", "source.text.path={place}/latin.txt", "path={place}/new"], ["latin.txt", "UTF-8"], latin),
    Case("broken JSON line", "prepare.py", ["source=[jsonl]", "source.jsonl.path={place}/lines.jsonl.gz", "path={place}/new"], ["lines.jsonl.gz", "2"], broken_lines),
    Case("missing field", "prepare.py", ["source=[jsonl]", "source.jsonl.path={place}/lines.jsonl", "path={place}/new"], ["lines.jsonl", "text"], fieldless),
    Case("another user's text", "prepare.py", ["source=[text]", "source.text.path={place}/private.txt", "path={place}/new"], ["private.txt"], private, plain=True),
    Case("vocabulary too small", "prepare.py", ["tokenizer=bpe", "tokenizer.vocabulary=10", "path={place}/new"], ["tokenizer.vocabulary=10"]),
    Case("missing tokenizer", "prepare.py", ["tokenizer=pretrained", "tokenizer.path={place}/no.model", "path={place}/new"], ["no.model"]),
    Case("other config in a finished folder", "prepare.py", ["source=[topics]", "tokenizer=bytes", "path={data}"], ["fresh=true"]),
]  # fmt: skip


def fresh_copy(world: World, place: Path) -> World:
    """The same world elsewhere, to be spoilt."""
    place.mkdir(parents=True)
    shutil.copytree(world.data, place / "data")
    shutil.copytree(world.runs, place / "runs")
    return World(place, place / "data", place / "runs")
