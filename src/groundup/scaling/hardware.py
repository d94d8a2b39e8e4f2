"""What accelerators can do on paper, and what part of it a run used; it knows names and figures, and no torch.

Figures are dense matrix rates with fp32 accumulation, without structured sparsity, as the makers print them
(data sheets that give the sparse rate are halved). Mixing sparse with dense peaks, or fp8 with bf16, would make
utilisations incomparable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PRECISIONS = ("bf16", "fp16", "tf32", "fp32")


@dataclass(frozen=True)
class Device:
    """An accelerator as its driver names it.

    Attributes:
        words: all must stand in the name, and the first device of the table that fits is meant.
        bf16, fp16, tf32, fp32: peak matrix rates in TFLOP/s; None where it has no such unit.
        source: where the figures are printed.
    """

    words: tuple[str, ...]
    bf16: float | None
    fp16: float | None
    tf32: float | None
    fp32: float
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU data sheet (2024), sparse figures halved"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet (2024), sparse figures halved"
_BLACKWELL = "NVIDIA Blackwell data sheet (2024), per GPU, sparse figures halved"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet (2021)"
_ADA = "NVIDIA Ada GPU Architecture white paper 2.1 (2023), appendix A"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture white paper 2.1 (2021), appendix A"
_CDNA = "AMD Instinct product page and data sheet"

DEVICES = (
    Device(("GB200",), 2500.0, 2500.0, 1250.0, 80.0, _BLACKWELL),
    Device(("B200",), 2250.0, 2250.0, 1125.0, 75.0, _BLACKWELL),
    Device(("GH200",), 989.4, 989.4, 494.7, 66.9, "NVIDIA GH200 Grace Hopper Superchip data sheet (2024), halved"),
    Device(("H200", "NVL"), 835.5, 835.5, 417.5, 60.0, _H200),
    Device(("H200",), 989.4, 989.4, 494.7, 66.9, _H200),
    Device(("H100", "NVL"), 835.5, 835.5, 417.5, 60.0, _H100),
    Device(("H100", "PCIe"), 756.5, 756.5, 378.0, 51.2, _H100),
    Device(("H100",), 989.4, 989.4, 494.7, 66.9, _H100),
    Device(("H800",), 989.4, 989.4, 494.7, 66.9, _H100),
    Device(("A100",), 312.0, 312.0, 156.0, 19.5, _A100),
    Device(("A800",), 312.0, 312.0, 156.0, 19.5, _A100),
    Device(("A30",), 165.0, 165.0, 82.0, 10.3, "NVIDIA A30 data sheet (2022)"),
    Device(("A40",), 149.7, 149.7, 74.8, 37.4, "NVIDIA A40 data sheet (2021)"),
    Device(("A10",), 125.0, 125.0, 62.5, 31.2, "NVIDIA A10 data sheet (2021)"),
    Device(("RTX", "A6000"), 154.8, 154.8, 77.4, 38.7, _GA102),
    Device(("RTX", "6000", "Ada"), 364.2, 364.2, 182.1, 91.1, _ADA),
    Device(("L40S",), 362.1, 362.1, 183.0, 91.6, "NVIDIA L40S data sheet (2023)"),
    Device(("L40",), 181.1, 181.1, 90.5, 90.5, _ADA),
    Device(("L4",), 121.0, 121.0, 60.0, 30.3, _ADA),
    Device(("RTX", "5090"), 209.5, 209.5, 104.8, 104.8, "NVIDIA RTX Blackwell white paper 1.1 (2025), appendix A"),
    Device(("RTX", "4090"), 165.2, 165.2, 82.6, 82.6, _ADA),
    Device(("RTX", "3090", "Ti"), 80.0, 80.0, 40.0, 40.0, _GA102),
    Device(("RTX", "3090"), 71.0, 71.0, 35.6, 35.6, _GA102),
    Device(("V100", "PCIE"), None, 112.0, None, 14.0, "NVIDIA V100 data sheet (2020)"),
    Device(("V100",), None, 125.0, None, 15.7, "NVIDIA V100 data sheet (2020)"),
    Device(("T4",), None, 65.0, None, 8.1, "NVIDIA T4 data sheet (2019)"),
    Device(("MI325X",), 1307.4, 1307.4, 653.7, 163.4, _CDNA),
    Device(("MI300X",), 1307.4, 1307.4, 653.7, 163.4, _CDNA),
    Device(("MI250X",), 191.5, 191.5, None, 47.9, f"{_CDNA}, per graphics compute die"),
)

_LESSER = ("MIG", "GRID", "vGPU", "Laptop", "Mobile", "Max-Q", "D")
"""Names with one of these mean a part of a chip, or a slower one; the table's figures are not theirs."""


def device(name: str) -> Device | None:
    """The entry of the table for a device's name, as `torch.cuda.get_device_name` gives it; None if there is none."""
    found = _words(name)
    if any(part.lower() in found for part in _LESSER):
        return None
    return next((entry for entry in DEVICES if all(word.lower() in found for word in entry.words)), None)


def peak_flops(name: str, precision: str) -> float | None:
    """The peak matrix rate of one device in FLOP/s.

    Args:
        name: of the device.
        precision: bf16, fp16, tf32 or fp32, the inputs of the matrix products.

    Returns:
        None where the device, or a unit of that precision in it, is not known.

    Raises:
        ValueError: the precision is none of these.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision} is none of {', '.join(PRECISIONS)}")
    entry = device(name)
    rate = getattr(entry, precision) if entry else None
    return None if rate is None else float(rate) * 1e12


def utilisation(tokens_per_second: float, flops_per_token: float, peak: float, devices: int = 1) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B).

    `MFU = tokens per second * model FLOPs per token / (devices * peak)`. The model FLOPs are those the forward
    and backward pass need by definition; recomputed ones do not count.

    Args:
        tokens_per_second: over all devices.
        flops_per_token: of forward and backward pass.
        peak: FLOP/s of one device.
        devices: how many.
    """
    return tokens_per_second * flops_per_token / (devices * peak)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"max-q|[a-z0-9]+", name.lower()))
