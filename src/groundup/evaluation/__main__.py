"""lm-eval's own command line with our models among its own: `python -m groundup.evaluation --model groundup ...`.

lm-eval looks models up in a list of its own that other packages cannot join from outside; this joins it first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from groundup.core.errors import answered


def main() -> int:
    """Run lm-eval.

    Returns:
        2 after an error that the user can put right, told in one line.
    """
    here = Path.cwd()
    if (here / "evaluate.py").is_file():  # it would stand for the package of that name, which tasks import
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    try:
        from lm_eval.__main__ import cli_evaluate

        import groundup.evaluation.harness  # noqa: F401  # it registers the model
    except ModuleNotFoundError as error:
        print(f"error: {error}; pip install -r requirements-evaluate.txt", file=sys.stderr)
        return 2
    return answered(lambda: cli_evaluate() or 0)


if __name__ == "__main__":
    sys.exit(main())
