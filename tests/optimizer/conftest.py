"""Every optimizer, and a small net for it to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from groundup.optimizer.config import SGD, Adafactor, AdamW, Lion, Muon

KINDS = {
    "adamw": AdamW(rate=0.01),
    "adamw with l1": AdamW(rate=0.01, l1=0.01),
    "muon": Muon(rate=0.1, adamw_rate=0.01),
    "muon, cautious polar": Muon(rate=0.1, adamw_rate=0.01, cautious=True, polynomial="polar"),
    "muon, plain momentum with l1": Muon(rate=0.1, adamw_rate=0.01, nesterov=False, l1=0.001),
    "sgd": SGD(rate=0.1),
    "sgd, nesterov": SGD(rate=0.1, nesterov=True, weight_decay=0.001),
    "sgd, no momentum, l1": SGD(rate=0.1, momentum=0.0, l1=0.001),
    "adafactor": Adafactor(rate=0.05),
    "lion": Lion(rate=0.03, weight_decay=0.01),
}


class Net(nn.Module):
    """A net with every role of parameter, named as decoders are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(6, 12), "down": nn.Linear(12, 6), "norm": nn.LayerNorm(6)}) for _ in range(2)
        )
        self.merge = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 11, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](block["norm"](x))))
        return self.head(self.merge(x))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def config(request: pytest.FixtureRequest) -> Any:
    """Each of the optimizers."""
    return request.param


@pytest.fixture
def made() -> Callable[..., Net]:
    """A net drawn from a seed."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float64) -> Net:
        torch.manual_seed(seed)
        return Net().to(dtype)

    return make
