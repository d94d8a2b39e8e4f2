"""What the tests run as the launcher: `drive.py FOLDER DEVICES GRACE PROGRAM [ARGUMENT...]`, the program in Python."""

from __future__ import annotations

import sys
from pathlib import Path

from groundup.core.errors import RankError
from groundup.launcher.job import Job
from groundup.launcher.local import Local

if __name__ == "__main__":
    folder, devices, grace, *program = sys.argv[1:]
    try:
        Local(int(devices), float(grace), 5, stop_seconds=60.0).launch(
            Job("test", [sys.executable, "-c", *program], Path(folder))
        )
    except RankError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
