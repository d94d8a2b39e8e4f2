"""What the process that tests fork from has done once for all of them: imports, Hydra's reading, a first picture."""

import tempfile
from pathlib import Path

import lightning  # noqa: F401
import torch.distributed.checkpoint
import torch.distributed.pipelining
import torch.distributed.tensor.parallel  # noqa: F401

import groundup.trainer.run
import groundup.verb.evaluate
import groundup.verb.prepare
import groundup.verb.train  # noqa: F401
from groundup.core.config import compose
from groundup.core.report import Line, Panel, curve_png
from groundup.trainer import environment

compose.composed(Path(__file__).resolve().parents[2] / "conf", "train")
environment.gather("cpu")
with tempfile.TemporaryDirectory() as folder:
    curve_png(Path(folder, "first.png"), [Panel("first", [Line("first", [0, 1], [0, 1])])], "step")
