"""Runs of train.py on the embedded corpus for the claims on what is learned, and the bigram they are held against.

Each run has one thread, and there are as many runs at once as cores: small networks gain little from a second one.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import threading
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
AT_ONCE = os.cpu_count() or 1
torch.set_num_threads(1)
_PLACES = threading.Lock()
SMOOTHINGS = (0.001, 0.01, 0.1, 1.0)
"""k of add-k; the one that suits the held-out text best counts, which favours the bigram."""


def place(tokenizer: str = "bpe") -> Path:
    """A folder with the shards of the embedded corpus."""
    with _PLACES:
        return _prepared(tokenizer)


@functools.cache
def _prepared(tokenizer: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    command = [sys.executable, "prepare.py", f"path={folder}/data", f"tokenizer={tokenizer}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def trained(name: str, folder: Path, overrides: list[str]) -> Path | None:
    """The folder of a run; None where it did not come to its end."""
    train = [f"data.path={folder}/data", f"runs={folder}/runs", f"name={name}", "data.held_out_tokens=65536"]
    train += ["callback=[checkpoint]", "trainer.validate_every=null", "trainer.threads=1", *overrides]
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
