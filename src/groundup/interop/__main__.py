"""The command line: `python -m groundup.interop export RUN FOLDER`, and `... import FOLDER RUN`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from groundup.core.errors import UserError
from groundup.interop.folder import export, import_


def main(arguments: Sequence[str]) -> int:
    """Convert a folder; 2 and one line where the user can put something right."""
    parser = argparse.ArgumentParser(prog="python -m groundup.interop", description="To and from Hugging Face's form.")
    parser.add_argument("way", choices=("export", "import"), help="from groundup, or to it")
    parser.add_argument("source", type=Path, help="the folder that is read")
    parser.add_argument("target", type=Path, help="the folder that is made")
    given = parser.parse_args(arguments)
    try:
        if given.way == "export":
            family = export(given.source, given.target)
            print(f"{given.target}: a {family.architecture}, for AutoModelForCausalLM and AutoTokenizer")
        else:
            config = import_(given.source, given.target)
            print(f"{given.target}: {config.parameters()['total']:,} parameters, for groundup.model.load")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
