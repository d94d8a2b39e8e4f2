"""What NVIDIA's driver says of the GPUs of this machine: errors of memory, and clocks held down."""

from __future__ import annotations

from typing import Any

import pynvml
from pynvml import NVMLError

_HELD_DOWN = {
    "too hot": pynvml.nvmlClocksEventReasonHwThermalSlowdown | pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "the power supply brakes": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "the hardware slows down": pynvml.nvmlClocksEventReasonHwSlowdown,
}
"""Why clocks are lower than they should be; a limit of power that someone set is no fault."""


__all__ = ["NVMLError", "faults"]


def faults() -> list[tuple[str, list[str]]]:
    """Each GPU by its name, with what is wrong with it.

    Raises:
        NVMLError: the driver does not answer.
    """
    pynvml.nvmlInit()
    try:
        found = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            found.append((f"GPU {number} ({pynvml.nvmlDeviceGetName(handle)})", _faults(handle)))
        return found
    finally:
        pynvml.nvmlShutdown()


def _faults(handle: Any) -> list[str]:
    found = []
    errors = _asked(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    if errors:
        found.append(f"{errors} errors of memory that could not be corrected since the driver was loaded")
    rows = _asked(pynvml.nvmlDeviceGetRemappedRows, handle)
    if rows and rows[3]:
        found.append("a row of memory could not be replaced")
    elif rows and rows[2]:
        found.append("rows of memory are to be replaced, which takes a reset of the GPU")
    reasons = _asked(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    found += [f"clocks are held down: {name}" for name, bits in _HELD_DOWN.items() if reasons & bits]
    return found


def _asked(question: Any, *arguments: Any) -> Any:
    """The answer, or None of a GPU that has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError_NotSupported:
        return None
