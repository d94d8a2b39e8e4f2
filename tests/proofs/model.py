"""Claims of the architectures: what they learn on real text is more than which token follows which."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from groundup.core.config import from_dict
from groundup.core.progress import Progress
from groundup.data.module import StreamModule
from groundup.data.step import Batch
from groundup.trainer import segments
from groundup.trainer.opening import open_run

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 1_228_800
SMOOTHINGS = (0.001, 0.01, 0.1, 1.0)
"""k of add-k; the one that suits the held-out text best counts, which favours the bigram."""

KINDS = {
    "gpt2": [
        "model=gpt2-124m",
        "model.layers=4",
        "model.width=192",
        "model.heads=3",
        "optimizer=adamw",
        "optimizer.rate=2e-3",
    ],
    "gopher": ["model.positions=transformer_xl"],
    "bloom": ["model.positions=alibi"],
    "mistral": ["model.sliding_window=64", "model.activation=swiglu", "model.gain=true"],
    "palm": ["model.parallel=one_norm", "model.kv_heads=1", "model.activation=swiglu"],
    "mixtral": ["model.experts=4", "model.activation=swiglu", "model.hidden=256"],
    "prefix": ["objective=prefix", "model.mask=prefix"],
}
"""Overrides of the default run."""


DEEP = ["model=encoder_decoder", "model.layers=12", "model.width=64", "model.heads=4", "model.hidden=256"]
DEEP += ["model.positions=sinusoidal", "model.scaled_embedding=true", "model.activation=relu", "objective=denoise"]
DEEP += ["model.qk_norm=false", "model.embedding_norm=false", "model.dropout=0.0", "data.context=64"]
DEEP += [
    "data.micro_batch=64",
    "trainer.compile=false",
    "optimizer=adamw",
    "optimizer.rate=1e-3",
    "schedule=linear",
    "schedule.warmup_steps=0",
]
BEGINNINGS = {
    "t_fixup": ["model.norm=none", "model.init=t_fixup"],
    "post_norm": [
        "model.norm=layer",
        "model.norm_place=post",
        "model.gain=true",
        "model.bias=true",
        "model.init=fan_in",
    ],
}
"""Twelve layers each way without warm-up (Huang et al. 2020), and how they begin."""
SEEDS, DEEP_TOKENS = range(5), 1_228_800


@functools.cache
def place(tokenizer: str = "bpe") -> Path:
    """A folder with the shards of the embedded corpus."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    command = [sys.executable, "prepare.py", f"path={folder}/data", f"tokenizer={tokenizer}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def trained(name: str, folder: Path, overrides: list[str]) -> Path | None:
    """The folder of a run; None where it did not come to its end."""
    train = [f"data.path={folder}/data", f"runs={folder}/runs", f"name={name}", "data.held_out_tokens=65536"]
    train += ["callback=[checkpoint]", "trainer.validate_every=null", *overrides]
    done = subprocess.run([sys.executable, "train.py", *train], cwd=ROOT, stdout=subprocess.DEVNULL)
    return next((folder / "runs" / name).iterdir()) if done.returncode == 0 else None


def bits(run: Path) -> tuple[float, float]:
    """Nats per target on held-out text: of a bigram of the tokens that the run was trained on, and of the run."""
    opened = open_run(run, lambda line: print(line, file=sys.stderr))
    data = from_dict("data", segments.read(run)[0]["data"])
    view = opened.objective.view(opened.seed, opened.tokenizer, opened.model)
    steps = opened.progress.steps
    stream = StreamModule(data, opened.seed, Progress(), steps, view=view)
    stream.setup("fit")
    vocabulary = opened.model.vocabulary
    counts = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    for step in stream.train_dataloader():
        for batch in step.micro_batches:
            # The bigram may learn from what was given too.
            before, after = batch.tokens_BT[:, :-1].reshape(-1).numpy(), batch.tokens_BT[:, 1:].reshape(-1).numpy()
            np.add.at(counts, (before, after), 1)
    nats, own, targets = dict.fromkeys(SMOOTHINGS, 0.0), 0.0, 0
    for loader in stream.val_dataloader():
        for step in loader:
            for batch in step.micro_batches:
                kept = batch.targets_BT >= 0
                before, after = batch.tokens_BT[kept].numpy(), batch.targets_BT[kept].numpy()
                for k in SMOOTHINGS:
                    shares = (counts[before, after] + k) / (counts[before].sum(axis=1) + k * vocabulary)
                    nats[k] -= float(np.log(shares).sum())
                own += float(likelihood(opened.net, batch).double().sum())
                targets += int(kept.sum())
    return min(nats.values()) / targets, own / targets


@torch.no_grad()
def likelihood(net: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Negative log-likelihoods of a batch's targets."""
    result: torch.Tensor = net(**batch.there())
    return result


def worst_beside_a_bigram() -> tuple[float, int]:
    """Of several architectures, each trained for 1.2M tokens: the largest loss as a share of the bigram's."""
    shares = {}
    for kind, overrides in KINDS.items():
        run = trained(kind, place(), [f"tokens={TOKENS}", *overrides])
        assert run is not None, kind
        bigram, own = bits(run)
        shares[kind] = own / bigram
        print(f"{kind}: {own:.3f} nats a token, bigram {bigram:.3f}", file=sys.stderr)
    assert not any(math.isnan(share) for share in shares.values())
    return max(shares.values()), len(shares)


def below_the_bigram(beginning: str) -> tuple[float, int]:
    """How many of five seeds of a deep encoder-decoder, which begins so, end below the bigram of their tokens."""
    below = 0
    for seed in SEEDS:
        overrides = [f"tokens={DEEP_TOKENS}", f"seed={seed}", *DEEP, *BEGINNINGS[beginning]]
        run = trained(f"{beginning}-{seed}", place("bytes"), overrides)
        bigram, own = (math.nan, math.nan) if run is None else bits(run)
        below += own < bigram
        print(f"{beginning}, seed {seed}: {own:.3f} nats a byte, bigram {bigram:.3f}", file=sys.stderr)
    return below, len(SEEDS)


def t_fixup_below_the_bigram() -> tuple[float, int]:
    """T-Fixup's network without norms."""
    return below_the_bigram("t_fixup")


def post_norm_below_the_bigram() -> tuple[float, int]:
    """The same with norms behind the sums."""
    return below_the_bigram("post_norm")
