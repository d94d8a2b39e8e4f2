"""How this process gets its memory from the system, and how much; what is kept in it is not its business."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_TOP_PAD = 500_000_000
_RESERVE = 4 << 30
_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14  # sys/mman.h


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, in huge pages: training on a CPU then faults none in at every step.

    A training step frees and takes the same hundreds of megabytes again. By default glibc hands large blocks back
    to the system at once, and each comes back as thousands of zeroed 4 KiB pages. Here malloc keeps them, and the
    heap it grows into, up to 4 GiB or a quarter of the machine's memory, asks for 2 MiB pages; torch's own large
    blocks do too (`THP_MEM_ALLOC_ENABLE`). Nothing is taken that is not used.

    To be called before torch is imported. Only Linux with glibc is changed.

    Returns:
        Whether malloc accepted.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD))
    accepted = all(library.mallopt(name, value) == 1 for name, value in settings)
    if accepted:
        _reserve(library)
    return accepted


def share_of_memory(processes: int) -> float:
    """How much of the memory this process could have it has, 0.0 where the system does not tell (it is not Linux).

    Args:
        processes: so many on this machine take equal parts of what is free.
    """
    found = {}
    for file, name in (("self/status", "VmRSS:"), ("meminfo", "MemAvailable:")):
        path = Path("/proc", file)
        lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
        found[name] = next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)
    has, free = found.values()
    return has / (has + free / processes) if has and free else 0.0


def _reserve(library: ctypes.CDLL) -> None:
    """Grow the heap by an untouched block, ask for huge pages there, and free the block: malloc keeps the room."""
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = min(_RESERVE, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    block = library.malloc(size)
    if block is None:
        return
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    end = min(block + size, library.sbrk(0) or 0) // _HUGE_PAGE * _HUGE_PAGE
    if end > start:
        library.madvise(start, end - start, _MADV_HUGEPAGE)
    library.free(block)
