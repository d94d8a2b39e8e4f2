"""Freed memory stays with the process, and nothing breaks where that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from groundup.core import memory

FAULTS = """
import resource
from groundup.core.memory import keep_freed_memory
{before}
accepted = {call}
import numpy
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(accepted, faults() < 32)  # with huge pages alone they are 64
"""


def run(call: str, before: str = "") -> str:
    code = FAULTS.format(call=call, before=before)
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return made.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "confstr") or "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")), reason="glibc")
def test_memory_taken_again_after_it_was_freed_costs_no_faults() -> None:
    assert run("keep_freed_memory()") == "True True"
    assert run("False") == "False False"


@pytest.mark.skipif(sys.platform != "linux", reason="resource limits of Linux")
def test_a_limit_on_address_space_is_no_error() -> None:
    limit = "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))"
    assert run("keep_freed_memory()", before=limit).startswith("True")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert memory.keep_freed_memory() is False
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
