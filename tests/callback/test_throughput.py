"""What is logged about speed, and that pauses are left out of it."""

from __future__ import annotations

import time
from typing import Any

import lightning
import pytest
import torch

from groundup.callback import config
from groundup.callback.history import METRICS, SPEED, read
from groundup.callback.throughput import Throughput, paused, precision_of, throughput


class Sleep(lightning.Callback):
    """Holds a run up after each step, within a pause or not."""

    def __init__(self, seconds: float, pause: bool) -> None:
        self.seconds, self.pause = seconds, pause

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.pause:
            with paused(trainer):
                time.sleep(self.seconds)
        else:
            time.sleep(self.seconds)


def test_speed_stands_apart_from_what_the_mathematics_gave(run) -> None:
    module, trainer = run(Throughput(config.Throughput(every=2, measure=False)), steps=5)
    speed, metrics = read(module.folder / SPEED), read(module.folder / METRICS)
    assert all(name.startswith("speed/") for name in speed) and all(name.startswith("train/") for name in metrics)
    assert speed["speed/elapsed_seconds"].steps == [0, 2, 4, 5]
    assert speed["speed/elapsed_seconds"].values[0] == 0.0
    assert speed["speed/training_seconds"].last <= speed["speed/elapsed_seconds"].last
    assert "speed/mfu" not in speed and "speed/matrix_share" not in speed
    assert throughput(trainer).tokens_per_second > 0


def test_a_run_stopped_early_logs_its_last_steps_too(run) -> None:
    module, _ = run(Throughput(config.Throughput(every=4, measure=False)), steps=6)
    assert read(module.folder / SPEED)["speed/training_seconds"].steps == [0, 4, 6]


def test_a_pause_is_no_training_time_and_any_other_wait_is(run) -> None:
    pausing, waiting = (Throughput(config.Throughput(every=1, measure=False)) for _ in range(2))
    one, _ = run(pausing, Sleep(0.05, pause=True), folder="pausing")
    two, _ = run(waiting, Sleep(0.05, pause=False), folder="waiting")
    first, second = read(one.folder / SPEED), read(two.folder / SPEED)
    assert first["speed/elapsed_seconds"].last > 0.25 and second["speed/elapsed_seconds"].last > 0.25
    gap = first["speed/elapsed_seconds"].last - first["speed/training_seconds"].last
    assert gap >= 0.25
    assert second["speed/training_seconds"].last >= 0.25


def test_utilisation_is_against_the_peak_if_known_and_else_against_what_was_measured(run) -> None:
    watch = Throughput(config.Throughput(every=1))
    module, _ = run(watch, steps=3)
    assert watch.peak is None and watch.mfu is None
    assert watch.matrix_share == pytest.approx(watch.tokens_per_second * 100.0 / watch.measured)
    watch.peak = 1e6
    assert watch.mfu == pytest.approx(watch.tokens_per_second * 100.0 / 1e6)
    assert "speed/matrix_share" in read(module.folder / SPEED)


def test_watching_the_speed_changes_no_bit_of_the_weights(run) -> None:
    plain, _ = run(folder="plain")
    watched, _ = run(Throughput(config.Throughput(every=1)), folder="watched")
    assert torch.equal(plain.weight, watched.weight)
    assert (plain.folder / METRICS).read_bytes() == (watched.folder / METRICS).read_bytes()


def test_a_run_without_the_callback_can_pause_all_the_same(run) -> None:
    _, trainer = run(steps=1)
    with paused(trainer):
        assert throughput(trainer) is None


def test_fp32_products_on_a_gpu_may_be_tf32_and_nothing_else_may() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [precision_of(name, cpu) for name in ("bf16", "fp16", "fp32")] == ["bf16", "fp16", "fp32"]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert precision_of("fp32", gpu) == "tf32" and precision_of("bf16", gpu) == "bf16"
        torch.set_float32_matmul_precision("highest")
        assert precision_of("fp32", gpu) == "fp32"
    finally:
        torch.set_float32_matmul_precision(before)
