"""Tokens per second: pauses do not count, waiting for data does, and nothing waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from groundup.callback.meter import HostMark, Meter, clock


class Time:
    """A clock that is moved by hand, of a device that runs behind the host."""

    def __init__(self) -> None:
        self.host = 0.0
        self.device = float("inf")

    def mark(self) -> Mark:
        return Mark(self.host, self)


@dataclass(frozen=True)
class Mark:
    at: float
    time: Time

    def reached(self) -> bool:
        return self.at <= self.time.device

    def since(self, earlier: Mark) -> float:
        assert self.reached() and earlier.reached()
        return self.at - earlier.at


def steps(meter: Meter, time: Time, *seconds: float, tokens: int = 100) -> None:
    for each in seconds:
        time.host += each
        meter.step(tokens)


def test_the_first_step_counts_as_time_but_not_in_the_rate() -> None:
    time = Time()
    meter = Meter(time.mark, window=10)
    meter.start()
    steps(meter, time, 30.0)
    assert meter.tokens_per_second is None and meter.seconds == 30.0
    steps(meter, time, 1.0, 3.0)
    assert meter.tokens_per_second == 50.0 and meter.seconds == 34.0


def test_the_rate_is_that_of_the_window_alone() -> None:
    time = Time()
    meter = Meter(time.mark, window=3)
    meter.start()
    steps(meter, time, 1.0, 50.0, 50.0, 2.0, 2.0, 2.0)
    assert meter.tokens_per_second == 50.0


def test_pauses_do_not_count_wherever_they_fall_and_however_deep() -> None:
    time = Time()
    meter = Meter(time.mark, window=10)
    meter.start()
    steps(meter, time, 1.0)
    meter.pause()
    time.host += 100.0
    meter.pause()
    time.host += 100.0
    meter.resume()
    time.host += 100.0
    meter.resume()
    steps(meter, time, 2.0)
    time.host += 1.0
    meter.pause()
    time.host += 100.0
    meter.resume()
    steps(meter, time, 1.0)
    assert meter.seconds == 5.0 and meter.tokens_per_second == pytest.approx(200 / 4)


def test_a_step_that_ends_within_a_pause_ends_at_its_beginning() -> None:
    time = Time()
    meter = Meter(time.mark, window=10)
    meter.start()
    steps(meter, time, 1.0, 1.0)
    time.host += 2.0
    meter.pause()
    steps(meter, time, 50.0)
    meter.resume()
    steps(meter, time, 1.0)
    assert meter.seconds == 5.0


def test_steps_the_device_has_not_done_are_not_in_the_rate_yet() -> None:
    time = Time()
    meter = Meter(time.mark, window=10)
    time.device = 2.0
    meter.start()
    steps(meter, time, 1.0, 1.0, 4.0)
    assert meter.tokens_per_second == 100.0 and meter.seconds == 2.0
    time.device = 6.0
    assert meter.tokens_per_second == 40.0 and meter.seconds == 6.0


def test_on_the_host_marks_are_seconds() -> None:
    now = clock(torch.device("cpu"))
    first, second = now(), now()
    assert isinstance(first, HostMark) and first.reached() and second.since(first) >= 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_marks_tell_device_time_without_waiting() -> None:
    now = clock(torch.device("cuda"))
    work = torch.randn(8192, 8192, device="cuda")
    work @ work
    torch.cuda.synchronize()
    first = now()
    for _ in range(50):
        work = (work @ work).clamp(-1, 1)
    last = now()
    assert not last.reached()
    torch.cuda.synchronize()
    assert last.reached() and 0.01 < last.since(first) < 60
