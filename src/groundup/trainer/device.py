"""The devices of this machine, and what `auto` stands for on it; no lightning is imported."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from groundup.core.errors import ConfigError


def device_of(options: Any) -> tuple[str, str]:
    """The accelerator and precision that `auto` stands for on this machine.

    Raises:
        ConfigError: the accelerator asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = next(name for name, there in available.items() if there)
    elif not available[accelerator]:
        there = ", ".join(name for name, found in available.items() if found)
        raise ConfigError(f"trainer.accelerator={accelerator}", "is not on this machine", f"here: auto, {there}")
    if options.precision != "auto":
        return accelerator, options.precision
    return accelerator, "bf16" if computes_in_bf16(accelerator) else "fp32"


def devices_of(accelerator: str) -> int | None:
    """How many devices this machine has, None for a CPU, which any number of processes may share."""
    return {"cuda": torch.cuda.device_count(), "mps": 1}.get(accelerator)


def computes_in_bf16(accelerator: str) -> bool:
    """Whether the device multiplies bf16 matrices natively; emulation is slower than fp32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return accelerator == "cpu" and bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def described(accelerator: str) -> str:
    """This machine's devices in words."""
    if accelerator == "cuda":
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The processor's name, as Linux tells it, or what Python knows."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
