"""Bits per byte after three minutes of training on two cores: the default recipe, GPT-2's in the same trainer, litgpt's Pythia.

    python benchmarks/quality.py                 # about 80 minutes; --resume goes on where it stopped today

The corpus is the Bible's chapters, a tenth held out by a hash of their text; bytes of that text are the denominator.
All recipes read the same shards in the same steps and are scored on all held-out text in the same windows. Each run is
a process of its own, one after the other: it compiles and times some steps, lays its schedule over the steps that fit
into the time, and trains from scratch. The clock counts training alone: compilation (the first two steps, which count
like the average of the others), validation and the final checkpoint stand outside for all. A run whose clock ends more
than 4% off is trained again with a corrected length.

GPT-2's size is the best of four at one rate and its rate the best of four at that size, by seed 0; the Pythia has the
default's layers, width and heads, and the best of the same four rates. Then the seeds 1, 2, ... take turns over all
recipes, and their median counts. Each finished run is added at once to docs/records/quality.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import hashlib
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning
import peers
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn import functional

import groundup.verb.train  # registers the groups
from groundup.core.config import option, schema
from groundup.core.config.compose import instantiate, store
from groundup.core.progress import Progress
from groundup.data.module import StreamModule
from groundup.data.step import Batch, Step
from groundup.tokenizer.load import load as load_tokenizer
from groundup.trainer.run import train

BAR = 0.95
RECIPES = ("default", "gpt2", "pythia")
SIZES = ((4, 192), (4, 256), (5, 320), (6, 384))
RATES = (1e-3, 5e-4, 2e-3, 4e-3)
"""The first is the one at which sizes are compared."""

WARM_UP = 0.05
"""Share of the peers' steps over which their rate rises; it then falls to a tenth along a cosine."""

WITHIN = 0.04
SKIPPED = 2
"""Steps at the start that may compile; they count like the average of the others."""

TIMED = 12
GPT2 = (
    "model=decoder model.positions=learned model.norm=layer model.gain=true model.embedding_norm=false "
    "model.qk_norm=false model.activation=gelu_tanh model.tied=true model.bias=true model.init=gpt2 model.dropout=0 "
    "data.document_mask=false "
    f"optimizer=adamw optimizer.weight_decay=0.1 schedule=cosine schedule.warmup_fraction={WARM_UP}"
).split()


@dataclasses.dataclass(frozen=True)
class Job:
    """One run; what a row of the record is found by.

    Attributes:
        recipe: of `RECIPES`.
        seed: of weights and data order.
        seconds: of training.
        source: the corpus.
        layers, width: of GPT-2's model; None: the default's.
        rate: peak rate of the peers; None: the recipe's own.
        tiny: a few uncompiled steps of a very small model.
    """

    recipe: str
    seed: int
    seconds: float
    source: str
    layers: int | None = None
    width: int | None = None
    rate: float | None = None
    tiny: bool = False
