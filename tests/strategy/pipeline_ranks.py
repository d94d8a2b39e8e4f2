"""What the tests of pipelines run under torchrun: one process of several, which writes what it saw to a folder.

torchrun ... pipeline_ranks.py FOLDER CASE... RUN...

A case is `model,rows of a micro-batch,option=value,...` and trains a tiny network for some steps on made-up tokens.
A run is `train override...` in one argument and trains as train.py does.
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from groundup.core import ranks
from groundup.core.config import compose, from_dict
from groundup.core.layout import micro_numbers, rows
from groundup.core.progress import Progress
from groundup.data.step import IGNORED, Batch, Step
from groundup.objective.base import Objective, Setting
from groundup.verb.train import Train

CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS, SAMPLES, CONTEXT, VOCABULARY = 3, 8, 12, 61
SHAPE = {"kind": "decoder", "layers": 8, "width": 16, "heads": 4, "context": CONTEXT, "vocabulary": VOCABULARY}
PLAIN = {"qk_norm": False, "embedding_norm": False, "init": "gpt2"}
LAYER = {"norm": "layer", "gain": True, "bias": True}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {**PLAIN, **LAYER, "positions": "learned", "activation": "gelu_tanh", "tied": True},
    "neox": {**PLAIN, **LAYER, "parallel": "two_norms", "rope_share": 0.5},
    "llama": {**PLAIN, "kv_heads": 2, "activation": "swiglu", "gain": True},
    "nano": {"init": "gpt2"},
    "rich": {"mixing": True, "value_embeddings": True, "shift": True, "init": "gpt2", "tied": True, "softcap": 15.0},
    "buckets": {**PLAIN, "positions": "t5", "scaled_scores": False, "head_bias": True, "init": "fan_in"},
    "experts": {**PLAIN, "experts": 3, "experts_every": 2, "activation": "swiglu"},
    "projected": {**PLAIN, **LAYER, "embedding_width": 8, "norm_place": "post", "tied": True},
}


def step(number: int, cut: int, place: int, data: int) -> Step:
    """A step's share of one of `data` readers, in micro-batches of `cut` rows; some targets are left out."""
    draw = torch.Generator().manual_seed(number)
    tokens, targets = torch.randint(0, VOCABULARY, (2, SAMPLES, CONTEXT), generator=draw).unbind()
    targets[torch.rand(SAMPLES, CONTEXT, generator=draw) < 0.2] = IGNORED
    documents = (torch.rand(SAMPLES, CONTEXT, generator=draw) < 0.2).cumsum(dim=1).int()
    batches = []
    for offsets in map(torch.tensor, rows(SAMPLES, data, place, cut)):
        index = offsets.clamp(min=0)
        shown = targets[index].masked_fill(offsets[:, None] < 0, IGNORED)
        batches.append(Batch(tokens[index], shown, documents[index]))
    count = int((targets != IGNORED).sum())
    return Step(
        number, SAMPLES, SAMPLES * CONTEXT, count, number * SAMPLES, batches, micro_numbers(SAMPLES, data, place, cut)
    )


class Watch(lightning.Callback):
    """Writes down what an objective says of itself."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"loss": [], "held_out": []}

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.seen["begin"] = weights(module)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        self.seen["loss"].append({name: float(value) for name, value in module.last.items()})

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self.seen["held_out"].append(module.validation["all"])

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self.seen["weights"] = weights(module)


def weights(module: Objective) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.nets.named_parameters()}


def fit(model: str, cut: str, *options: str) -> dict[str, Any]:
    """Train for some steps, then look at held-out text; what was seen on this rank."""
    given: dict[str, Any] = dict(option.split("=") for option in options)
    more = {"dropout": float(given.pop("dropout"))} if "dropout" in given else {}
    strategy = {name: int(value) if value.isdecimal() else value for name, value in given.items()}
    config = from_dict("strategy", {"kind": "pipeline" if ranks.world() > 1 else "single", **strategy})
    grid = config.grid(ranks.world())
    place = grid.place(ranks.rank())
    end = Progress(STEPS, STEPS * SAMPLES, STEPS * SAMPLES * CONTEXT)
    setting = Setting(
        seed=1, first=Progress(), total=end, folder=Path(), precision="fp64", sources=["text"], log_every=STEPS + 1
    )
    module = from_dict("objective", {"kind": "pretrain", "clip": 0.5, "z_loss": 1e-3}).build(
        from_dict("model", {**SHAPE, **MODELS[model], **more}),
        from_dict("optimizer", {"kind": "adamw", "rate": 0.01}),
        from_dict("schedule", {"kind": "constant"}),
        setting,
    )
    watch = Watch()
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy=config.build("cpu", 1),
        devices=ranks.world(),
        max_epochs=1,
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        val_check_interval=STEPS,
        check_val_every_n_epoch=None,
    )
    shares = [[step(number, int(cut), place.data, grid.data) for number in part] for part in (range(STEPS), (90, 91))]
    trainer.fit(module, *(DataLoader(share, batch_size=None) for share in shares))
    return watch.seen


def run(text: str) -> None:
    """Train as train.py does; `copy=FROM` first takes over the runs of another folder."""
    overrides = text.split()[1:]
    given = dict(override.split("=", 1) for override in overrides)
    if "copy" in given:
        if ranks.rank() == 0:
            shutil.copytree(given["copy"], given["runs"])
        overrides.remove(f"copy={given['copy']}")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    config: Train = compose.composed(CONF, "train", *overrides)
    config.check()
    config.run()


if __name__ == "__main__":
    folder, *tasks = sys.argv[1:]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = {}
    for task in tasks:
        if task.startswith("train "):
            run(task)
        else:
            found[task] = fit(*task.split(","))
    torch.save(found, Path(folder) / f"{ranks.rank()}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
