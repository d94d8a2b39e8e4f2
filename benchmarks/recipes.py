"""One run of one recipe of `quality.py`, in a process of its own; it does not know the other runs.

The clock counts training alone: compilation falls into the first steps, which count like
the average of the others; validation and the last checkpoint stand outside.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import peers
import torch
from torch import Tensor, nn
from torch.nn import functional

import groundup.verb.train  # noqa: F401  # registers the groups
from groundup.core.config import schema, to_dict
from groundup.core.config.compose import composed
from groundup.core.files import make_folder
from groundup.core.progress import Progress
from groundup.data.module import StreamModule
from groundup.data.step import Batch, Step
from groundup.model import count
from groundup.tokenizer.load import load as load_tokenizer
from groundup.trainer import segments
from groundup.trainer.device import device_of
from groundup.trainer.run import train

WITHIN, LENIENT = 0.04, 0.12
"""How far the clock may end from the time given: by the second where that favours a peer (a peer may take longer, the
default be done earlier), else by the first. A run further off is trained again with a corrected length. Machines drift
by more than the first from one run to the next, so runs are laid out to end amid what is allowed."""

ATTEMPTS = 3
SKIPPED = 2
"""Steps at the start that may compile; they count like the average of the others."""

TIMED = 20
"""Steps timed to find out how many fit."""

WARM_UP = 0.05
"""Share of the peers' steps over which their rate rises; it then falls to a tenth of its peak along a cosine."""

GPT2 = f"experiment=gpt2-recipe model.dropout=0 data.document_mask=false schedule.warmup_fraction={WARM_UP}"
TINY = "model.layers=2 model.width=64 model.heads=2 data.context=64 data.batch_tokens=512 data.micro_batch=4"
AVERAGING = "ema"
"""The callback of the default that changes what is scored; the others only watch, and are left out."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        recipe: `default`, `gpt2` or `pythia`.
        seed: of weights and data order.
        seconds: of training.
        data: the folder of its shards.
        layers, width: of GPT-2's model; None for the others.
        rate: peak rate of the peers; None for the default.
        steps: so many are thought to fit; None: some are timed first.
        exact: the clock may end off by `WITHIN` on either side, for all recipes.
        tiny: a few uncompiled steps of a very small model, whatever the seconds.
    """

    recipe: str
    seed: int
    seconds: float
    data: str
    layers: int | None = None
    width: int | None = None
    rate: float | None = None
    steps: int | None = None
    exact: bool = False
    tiny: bool = False


@dataclasses.dataclass
class Clock:
    """When each step of a run ended."""

    ends: list[float] = dataclasses.field(default_factory=list)

    def tick(self) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())

    @property
    def per_step(self) -> float:
        """Mean seconds of the steps after the first ones."""
        return (self.ends[-1] - self.ends[SKIPPED - 1]) / (len(self.ends) - SKIPPED)

    @property
    def seconds(self) -> float:
        """Of all steps, the first ones counted like the average of the others."""
        return self.per_step * len(self.ends)


CLOCKS: list[Clock] = []
"""The clock of the run in hand is the last."""


@schema("callback", "stopwatch")
class Stopwatch:
    """Notes when steps end, in `CLOCKS`."""

    def build(self) -> lightning.Callback:
        """The callback, on a new clock."""
        clock = Clock()
        CLOCKS.append(clock)
        return lightning.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda *_: clock.tick())


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of training for a number of steps.

    Attributes:
        clock: of its steps.
        bits_per_byte: of all held-out text; None if it was only timed.
    """

    clock: Clock
    bits_per_byte: float | None


Trained = Callable[[int, bool], Run]
"""Trains from scratch on a schedule of so many steps; with True only the first are done, to time them."""


def main(job: Job) -> dict[str, Any]:
    """Do a run: time some steps, lay the schedule over those that fit, train, score; its row."""
    config = configure(job)
    before = peers.matrix_rate()
    trained = plain(job, config) if job.recipe == "pythia" else by_trainer(config)
    steps, attempts, run = fitted(trained, job)
    shape = pythia_shape(config) if job.recipe == "pythia" else config.model
    parameters = count.parameters(shape)
    return {
        "model": {"layers": shape.layers, "width": shape.width, "parameters": parameters["total"]},
        "flops_per_token": count.flops_per_token(shape, config.data.context),
        "rate": job.rate if job.rate is not None else config.optimizer.rate,
        "steps": steps,
        "tokens": steps * config.data.batch_tokens,
        "training_seconds": round(run.clock.seconds, 2),
        "attempts": attempts,
        "bits_per_byte": run.bits_per_byte,
        "matrix_gflops": [round(before / 1e9), round(peers.matrix_rate() / 1e9)],
        "precision": device_of(config.trainer)[1],
    }


def fitted(trained: Trained, job: Job) -> tuple[int, int, Run]:
    """Steps, attempts and outcome of the run whose clock ends where it may, or comes nearest in `ATTEMPTS`."""
    if job.tiny:
        return 6, 1, trained(6, False)
    low, high = (LENIENT, WITHIN) if job.recipe == "default" else (WITHIN, LENIENT)
    if job.exact:
        low, high = WITHIN, WITHIN
    aim = job.seconds * (1 + (high - low) / 2)
    steps = job.steps or whole(aim / trained(10**5, True).clock.per_step)
    found: list[tuple[float, int, Run]] = []
    while len(found) < ATTEMPTS:
        run = trained(steps, False)
        off = abs(run.clock.seconds - aim) / job.seconds
        print(f"{steps} steps took {run.clock.seconds:.1f} s: {run.bits_per_byte:.4f}", file=sys.stderr, flush=True)
        found.append((off, steps, run))
        if off <= (low + high) / 2:
            break
        steps = whole(aim / run.clock.per_step)
    _, steps, run = min(found, key=lambda entry: entry[0])
    return steps, len(found), run


def whole(steps: float) -> int:
    """A number of steps that a clock can be read after."""
    return max(SKIPPED + 1, round(steps))


def configure(job: Job) -> Any:
    """The train verb's config for a run, closed: vocabulary and context are those of the data."""
    overrides = [f"seed={job.seed}", f"data.path={job.data}", "data.held_out_tokens=null"]
    overrides += ["trainer.accelerator=cpu", "trainer.validate_every=1000000000", "trainer.log_every=1000000"]
    if job.recipe == "gpt2":
        shape = f"model.layers={job.layers} model.width={job.width} model.heads={(job.width or 0) // 64}"
        overrides += [*GPT2.split(), *shape.split(), f"optimizer.rate={job.rate}"]
    if job.recipe == "pythia":
        overrides += ["data.document_mask=false"]
    if job.tiny:
        overrides += [*TINY.split(), "trainer.compile=false"]
    config = composed(peers.ROOT / "conf", "train", *overrides)
    averaged = job.recipe == "default"
    config.callback = {name: kept for name, kept in config.callback.items() if averaged and name == AVERAGING}
    config.callback["stopwatch"] = Stopwatch()
    config.logger = {}
    config.check()
    return config


def by_trainer(config: Any) -> Trained:
    """How the repository's own trainer trains, in a folder that is thrown away."""

    def trained(steps: int, timing: bool) -> Run:
        start_over()
        with tempfile.TemporaryDirectory(prefix="groundup-") as folder:
            config.runs = folder
            config.tokens = steps * config.data.batch_tokens
            config.stop_steps = SKIPPED + TIMED if timing else None
            plan, home = config.plan(), make_folder(config.folder())
            segments.write(home, to_dict(config), plan)
            outcome = train(config, home, plan, None)
        return Run(CLOCKS[-1], None if timing else outcome.held_out["all"])

    return trained


def pythia_shape(config: Any) -> Any:
    """The default's layers, width and heads in the parts of a Pythia, for counting."""
    parts = {"norm": "layer", "gain": True, "bias": True, "embedding_norm": False, "qk_norm": False}
    other = {"activation": "gelu", "mixing": False, "value_embeddings": False, "shift": False, "hidden": None}
    return dataclasses.replace(config.model, **parts, **other, kv_heads=None, tied=False)


def plain(job: Job, config: Any) -> Trained:
    """How a plain loop trains litgpt's Pythia: compiled, bf16 autocast, fused AdamW, litgpt's own schedule."""
    from litgpt.pretrain import get_lr

    bf16 = device_of(config.trainer)[1] == "bf16"

    def likelihood(net: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(batch.tokens_BT)
        return functional.cross_entropy(logits.float().flatten(0, 1), batch.targets_BT.flatten(), reduction="none")

    def trained(steps: int, timing: bool) -> Run:
        start_over()
        torch.manual_seed(job.seed)
        net = peers.litgpt_pythia(config.model)
        loss = torch.compile(likelihood) if config.trainer.compile else likelihood
        optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        clock, warm_up = Clock(), math.ceil(WARM_UP * steps)
        data = StreamModule(config.data, job.seed, Progress(), SKIPPED + TIMED if timing else steps, 0, 1)
        data.setup("fit")
        for number, step in enumerate(data.train_dataloader(), 1):
            for group in optimizer.param_groups:
                group["lr"] = get_lr(job.rate, number, warm_up, steps, job.rate / 10)
            for batch in step.micro_batches:
                (loss(net, batch).sum() / step.targets).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            clock.tick()
        if timing:
            return Run(clock, None)
        return Run(clock, held_out(lambda batch: likelihood(net, batch), net, config))

    return trained


@torch.no_grad()
def held_out(likelihood: Callable[[Batch], Tensor], net: nn.Module, config: Any) -> float:
    """Bits per byte of all held-out text.

    Args:
        likelihood: negative log-likelihoods in nats of a batch's targets, zero where there is none.
        net: is put into eval mode.
        config: of the train verb.
    """
    net.eval()
    lengths = torch.from_numpy(load_tokenizer(Path(config.data.path) / "tokenizer").byte_lengths())
    data = StreamModule(config.data, config.seed, Progress(), 0, 0, 1)
    data.setup("validate")
    nats, size = 0.0, 0
    for loader in data.val_dataloader():
        for step in loader:
            nats, size = add(nats, size, step, likelihood, lengths)
    return nats / math.log(2) / size


def add(
    nats: float, size: int, step: Step, likelihood: Callable[[Batch], Tensor], lengths: Tensor
) -> tuple[float, int]:
    """The sums of nats and bytes with those of a step."""
    for batch in step.micro_batches:
        targets = batch.targets_BT[batch.targets_BT >= 0]
        nats += float(likelihood(batch).double().sum())
        size += int(lengths[targets].sum())
    return nats, size


def start_over() -> None:
    """Forget compiled code and what earlier runs of this process left, so that each begins alike."""
    torch._dynamo.reset()
    gc.collect()
