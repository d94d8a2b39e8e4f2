"""Laws of tensors in a folder: read back one at a time as they were written, at a cost that does not grow with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from groundup.callback import tensors


def test_tensors_read_one_at_a_time_are_those_that_were_written_and_the_index_is_read_once(
    tmp_path: Path, monkeypatch
) -> None:
    """The index names every tensor's pieces: read for each, a thousand tensors would take a million entries."""
    written = {f"layer {number}": torch.randn(number, 3) for number in range(1, 6)} | {"half": torch.ones(2).bfloat16()}
    plan = tensors.plan(written, None, alone=True)
    tensors.finish(tmp_path, plan.metadata, [plan.write(tmp_path)])
    read, real = [], FileSystemReader.read_metadata
    monkeypatch.setattr(
        FileSystemReader, "read_metadata", lambda *given, **named: read.append(1) or real(*given, **named)
    )
    saved = tensors.Saved(tmp_path)
    assert saved.kinds == {name: (tuple(value.shape), value.dtype) for name, value in written.items()}
    for name, value in written.items():
        found = saved.read([name])
        assert list(found) == [name]
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert len(read) == 1
