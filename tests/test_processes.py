"""What tests start is forked from a process that has done once what all would do; where it has not, it says nothing."""

from __future__ import annotations

from pathlib import Path

from processes import start


def test_a_process_that_a_test_starts_has_imported_what_runs_need(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; print(*sys.argv[1:], 'warm' in sys.modules, 'groundup.trainer.run' in sys.modules)")
    started = start(script, ["an argument"])
    assert started.wait(120) == 0, started.output()
    assert started.output().split("\n")[0] == "an argument True True"
