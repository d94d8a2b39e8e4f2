"""Nodes that no job is to use, a line each in a file that all of them read; why one is there is others' business.

    python -m groundup.launcher.cordon list
    python -m groundup.launcher.cordon add NODE WHY
    python -m groundup.launcher.cordon lift NODE
    python -m groundup.launcher.cordon free NODE...      # those of them that may be used, one a line

Each takes `--folder`, where the file is; by default that is `runs`, the folder of all runs. Lines are only ever added:
of those about a node the last holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from groundup.core import ranks
from groundup.core.errors import UserError, answered
from groundup.core.files import append_json, read_lines
from groundup.launcher.record import now

FILE = "cordon.jsonl"


class NodeError(UserError):
    """A machine that must not take part in a job; a verb exits with code 3."""

    exit_code = 3


def cordon(folder: Path, node: str, why: str) -> None:
    """Keep jobs from a node until it is lifted.

    Raises:
        StorageError: the file cannot be written.
    """
    append_json(folder / FILE, {"time": now(), "node": node, "cordoned": True, "why": why})


def lift(folder: Path, node: str) -> bool:
    """Let jobs use a node again; whether it was cordoned.

    Raises:
        StorageError: the file cannot be written.
    """
    if node not in cordoned(folder):
        return False
    append_json(folder / FILE, {"time": now(), "node": node, "cordoned": False, "why": "lifted"})
    return True


def cordoned(folder: Path) -> dict[str, str]:
    """The nodes that are cordoned, each with when and why."""
    found: dict[str, str] = {}
    for line in read_lines(folder / FILE):
        found.pop(line["node"], None)
        if line["cordoned"]:
            found[line["node"]] = f"since {line['time']}: {line['why']}"
    return found


def refuse(folder: Path) -> None:
    """See that this machine may be used.

    Raises:
        NodeError: it is cordoned.
    """
    node = ranks.node()
    why = cordoned(folder).get(node)
    if why is not None:
        remedy = f"once it is mended: python -m groundup.launcher.cordon lift {node} --folder {folder}"
        raise NodeError(node, f"is cordoned {why}", remedy)


def main(arguments: list[str]) -> int:
    """Do what the command line says; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m groundup.launcher.cordon", description="Nodes no job is to use.")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", type=Path, default=Path("runs"), help=f"where {FILE} is (default: %(default)s)")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", parents=[folder], help="nodes that are cordoned, when and why")
    add = actions.add_parser("add", parents=[folder], help="cordon a node")
    add.add_argument("node")
    add.add_argument("why")
    actions.add_parser("lift", parents=[folder], help="let jobs use a node again").add_argument("node")
    actions.add_parser("free", parents=[folder], help="of these nodes, those that may be used").add_argument(
        "nodes", nargs="+"
    )
    given = parser.parse_args(arguments)
    found = cordoned(given.folder)
    if given.action == "list":
        for node, why in sorted(found.items()):
            print(f"{node} {why}")
    elif given.action == "free":
        for node in given.nodes:
            if node not in found:
                print(node)
    elif given.action == "add":
        cordon(given.folder, given.node, given.why)
    elif not lift(given.folder, given.node):
        print(f"{given.node} is not cordoned in {given.folder / FILE}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(answered(lambda: main(sys.argv[1:])))
