"""Tokens per second and what part of the hardware they used; it watches the clock of the run and never waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from groundup.callback import config
from groundup.callback.meter import Meter, clock
from groundup.callback.watched import Watched, callbacks, log, watched
from groundup.model.parts import held
from groundup.scaling.hardware import peak_flops, utilisation
from groundup.scaling.measure import matrix_rate


class Throughput(Callback):
    """Logs, under names that begin with `speed/`, what depends on the machine and not on the mathematics:

    - `speed/tokens_per_second` over a sliding window of steps, on all devices, pauses left out;
    - `speed/mfu`, model FLOPs utilisation, where the device's peak is known (`scaling.hardware`);
    - `speed/matrix_share`, the same against the matrix rate measured here, where it is not;
    - `speed/training_seconds`, of steps, and `speed/elapsed_seconds`, pauses included, since this fit began;
    - `speed/memory_bytes`, the most a CUDA device held at once;
    - `speed/state_bytes`, what this process keeps of parameters and optimizer state, which gradients come on top of.
    """

    def __init__(self, options: config.Throughput) -> None:
        self.every = options.every
        self.window = options.window
        self.measure = options.measure
        self.peak: float | None = None
        self.measured: float | None = None
        self._meter: Meter | None = None
        self._flops_per_token = 0.0
        self._devices = 1
        self._tokens = 0
        self._began = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Over all devices; None before two steps are done."""
        return self._meter.tokens_per_second if self._meter else None

    @property
    def mfu(self) -> float | None:
        """Part of the devices' peak that the model's FLOPs make up; None where the peak is not known."""
        return self._part_of(self.peak)

    @property
    def matrix_share(self) -> float | None:
        """Part of the measured matrix rate that the model's FLOPs make up; None where it was not measured."""
        return self._part_of(self.measured)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak to compare with, and begin to count."""
        module = watched(pl_module)
        self._flops_per_token, self._devices = module.flops_per_token, trainer.world_size
        self._tokens = module.progress.tokens
        precision = precision_of(module.setting.precision, module.device)
        if module.device.type == "cuda":
            self.peak = peak_flops(torch.cuda.get_device_name(module.device), precision)
        if self.peak is None and self.measure and trainer.world_size == 1:
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
            self.measured = matrix_rate(module.device, dtype)
        self._meter = Meter(clock(module.device), self.window)
        self._meter.start()
        self._began = time.perf_counter()
        # A zero marks where a resumed run began to count anew, so that a reader can add its parts up.
        log(trainer, {"speed/training_seconds": 0.0, "speed/elapsed_seconds": 0.0}, module.progress.steps)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and log if it is time to."""
        assert self._meter is not None
        progress = watched(pl_module).progress
        self._meter.step(progress.tokens - self._tokens)
        self._tokens = progress.tokens
        if progress.steps % self.every == 0:
            self._log(trainer, watched(pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what came after the last multiple of `every`."""
        if watched(pl_module).progress.steps % self.every:
            self._log(trainer, watched(pl_module))

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is no training."""
        self.pause()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on."""
        self.resume()

    def pause(self) -> None:
        """Time from here on does not count."""
        if self._meter:
            self._meter.pause()

    def resume(self) -> None:
        """The end of a pause."""
        if self._meter:
            self._meter.resume()

    def _part_of(self, peak: float | None) -> float | None:
        rate = self.tokens_per_second
        if rate is None or peak is None:
            return None
        return utilisation(rate, self._flops_per_token, peak, self._devices)

    def _log(self, trainer: Trainer, module: Watched) -> None:
        assert self._meter is not None
        device = module.device
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        figures = {
            "speed/tokens_per_second": self.tokens_per_second,
            "speed/mfu": self.mfu,
            "speed/matrix_share": self.matrix_share,
            "speed/training_seconds": self._meter.seconds,
            "speed/elapsed_seconds": time.perf_counter() - self._began,
            "speed/memory_bytes": memory,
            "speed/state_bytes": held(_kept(trainer)),
        }
        log(trainer, {name: value for name, value in figures.items() if value is not None}, module.progress.steps)


def _kept(trainer: Trainer) -> Iterator[Tensor]:
    """Trained parameters and what the optimizer keeps of them."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def throughput(trainer: Trainer) -> Throughput | None:
    """The run's throughput callback, if it has one."""
    return next((callback for callback in callbacks(trainer) if isinstance(callback, Throughput)), None)


@contextmanager
def paused(trainer: Trainer) -> Iterator[None]:
    """Work in this block (a checkpoint, a picture) does not count as training time."""
    watch = throughput(trainer)
    if watch:
        watch.pause()
    try:
        yield
    finally:
        if watch:
            watch.resume()


def precision_of(forward: str, device: torch.device) -> str:
    """The inputs of the matrix products (bf16, fp16, tf32, fp32) when forward passes run in bf16, fp16 or fp32."""
    tf32 = forward == "fp32" and device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if tf32 else forward
