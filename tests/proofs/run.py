"""Run the claims of one part of the project and hold them against the bars in proofs.toml.

    python tests/proofs/run.py trainer           # or make proof PART=trainer
    python tests/proofs/run.py model t_fixup_below_the_bigram

Prints one JSON line per claim (line, bar, value, n, seconds); exits with 1 if any misses its bar. What this machine
cannot show is skipped with the reason. Where a part says how many of its claims may run AT_ONCE, so many do, each in
its own thread.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import SkipTest

HERE = Path(__file__).resolve().parent


def load(part: str) -> ModuleType:
    """The module of a part's claims."""
    spec = importlib.util.spec_from_file_location(f"proof_{part}", HERE / f"{part}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def holds(claim: dict[str, Any], value: float) -> bool:
    """Whether a value reaches its claim's bar; a value that is not a number does not."""
    if "at_least" in claim:
        return bool(value >= claim["at_least"])
    return bool(value <= claim["at_most"])


def main(arguments: list[str]) -> int:
    """Run the part named by the first argument, or those of its claims that are named behind it."""
    claims = tomllib.loads((HERE.parents[1] / "proofs.toml").read_text())["claim"]
    parts = sorted({claim["part"] for claim in claims})
    if not arguments or arguments[0] not in parts:
        print(f"usage: make proof PART=<one of: {', '.join(parts)}>", file=sys.stderr)
        return 2
    part, *wanted = arguments
    mine = [claim for claim in claims if claim["part"] == part]
    unknown = set(wanted) - {claim["name"] for claim in mine}
    if unknown:
        print(f"no such claim of {part}: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    module = load(part)

    def held(claim: dict[str, Any]) -> bool:
        began = time.monotonic()
        try:
            value, n = getattr(module, claim["name"])()
        except SkipTest as reason:
            print(json.dumps({"line": claim["line"], "skipped": str(reason)}), flush=True)
            return True
        ok = holds(claim, value)
        bar = {key: claim[key] for key in ("at_least", "at_most") if key in claim}
        row = {"line": claim["line"], "bar": bar, "value": value, "n": n, "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps({**row, "holds": ok}), flush=True)
        return ok

    with ThreadPoolExecutor(getattr(module, "AT_ONCE", 1)) as pool:
        all_hold = all(list(pool.map(held, [claim for claim in mine if not wanted or claim["name"] in wanted])))
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
