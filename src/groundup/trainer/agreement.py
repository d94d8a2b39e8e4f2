"""What all ranks must have in common before the first step of a segment; how they compare it is the strategies'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from typing_extensions import override

from groundup.core.code import code_digest
from groundup.core.config import fingerprint, to_dict
from groundup.core.progress import Progress
from groundup.strategy.agreement import agree


class Agreement(lightning.Callback):
    """Ends all ranks if they do not mean the same run; it costs one exchange, right after they have met.

    Args:
        recipe: the verb's config.
        manifest: digest of the data's manifest, in which those of its files are.
        clock: from where on the segment goes.
    """

    def __init__(self, recipe: Any, manifest: str, clock: Progress) -> None:
        config = to_dict(recipe)
        self.details = dict(_flat(config))
        self.facts = {
            "config": fingerprint(config),
            "code": code_digest(config.get("plugins") or ()),
            "torch": torch.__version__,
            "data": manifest,
            "seed": str(recipe.seed),
            "clock": f"step {clock.steps} ({clock.samples} samples, {clock.tokens} tokens)",
        }

    @override
    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """The group is there and nothing is built yet."""
        del trainer, pl_module, stage
        self.agree()

    def agree(self) -> None:
        """End all ranks if they do not mean the same run.

        Raises:
            ConfigError: on all ranks, the same.
        """
        agree(self.facts, self.details)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value, ensure_ascii=False, default=str)
