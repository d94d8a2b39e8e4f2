"""Devices by name, their peaks, and what part of them a run used."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from groundup.scaling.hardware import DEVICES, peak_flops, utilisation
from groundup.scaling.measure import matrix_rate


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.1),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", 80.0),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_a_device_is_known_by_the_name_its_driver_gives(name: str, bf16: float) -> None:
    assert peak_flops(name, "bf16") == pytest.approx(bf16 * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC 9R14 96-Core Processor",
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "GRID A100-10C",
        "NVIDIA A1000",
        "",
    ],
)
def test_a_device_not_in_the_table_or_a_part_of_one_has_no_peak(name: str) -> None:
    assert all(peak_flops(name, precision) is None for precision in ("bf16", "fp16", "tf32", "fp32"))


def test_a_unit_the_device_lacks_has_no_peak_and_a_precision_that_is_none_is_refused() -> None:
    assert peak_flops("Tesla V100-SXM2-32GB", "bf16") is None
    assert peak_flops("Tesla V100-SXM2-32GB", "fp16") == 125e12
    with pytest.raises(ValueError, match="fp8"):
        peak_flops("NVIDIA H100 80GB HBM3", "fp8")


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: " ".join(device.words))
def test_every_entry_is_dense_ordered_and_cited(device) -> None:
    assert device.source
    if device.bf16 is not None:
        assert device.fp16 == device.bf16 > device.fp32
    if device.tf32 is not None:
        assert device.bf16 / device.tf32 == pytest.approx(2.0, rel=0.02)
        assert device.tf32 >= device.fp32
    first = next(entry for entry in DEVICES if set(entry.words) <= set(device.words))
    assert first is device, "an earlier entry hides this one"


def test_palm_is_46_per_cent() -> None:
    """PaLM 540B, Chowdhery et al. 2022, table 3: 238.3k tokens/s on 6,144 TPU v4 of 275 TFLOP/s."""
    flops = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert utilisation(238.3e3, flops, 275e12, 6144) == pytest.approx(0.462, abs=5e-4)
    assert utilisation(238.3e3, 6 * 540.35e9, 275e12, 6144) == pytest.approx(0.457, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_a_device_draws_no_random_number(dtype: torch.dtype) -> None:
    before = torch.get_rng_state()
    assert matrix_rate(torch.device("cpu"), dtype, size=128, seconds=0.0) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_the_table_needs_no_torch() -> None:
    program = "import sys, groundup.scaling.hardware; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
