"""One file from which a run can be repeated: its config and figures, the code, the packages' versions, the data.

python -m groundup.verb.archive RUN [--out FILE] [--data-megabytes N]
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from groundup.callback import decisions
from groundup.core.errors import CheckpointError, ConfigError, answered
from groundup.core.files import atomic_file
from groundup.shard.manifest import Manifest
from groundup.trainer import segments
from groundup.trainer.environment import FILE, ROOT, rows
from groundup.trainer.find import find, is_run

CODE = ("train.py", "prepare.py", "evaluate.py", "conf", "src", "pyproject.toml", "README.md", "LICENSE")
FIGURES = (segments.FILE, decisions.FILE, FILE, "metrics.csv", "report.json", "changes")
README = """A run of groundup, and what it takes to repeat it.

    code/               the program
    requirements.lock   the packages it ran with
    run/                its config (segments.jsonl), its figures (metrics.csv), where it ran (environment.jsonl)
    data/               {data}

In an environment with those packages (or in the image that the Dockerfile makes), from this folder:

    PYTHONPATH=code/src python -m groundup.verb.repeat run --data data

trains the first steps again and compares every loss, bit by bit. On the same kind of processor, with as many threads,
they are the same; on another they may differ by rounding, and the differences are printed.
"""
DOCKERFILE = """FROM python:{python}-slim
WORKDIR /run
COPY . .
RUN pip install --no-cache-dir --requirement requirements.lock
ENV PYTHONPATH=code/src
CMD ["python", "-m", "groundup.verb.repeat", "run", "--data", "data"]
"""


def archive(run: Path, out: Path, data_bytes: int) -> list[str]:
    """Write the archive, whole or not at all.

    Args:
        run: the folder of a run.
        out: the file to write, `.tar.gz`.
        data_bytes: shards of more are left out, and named by their manifest.

    Returns:
        the names in it.

    Raises:
        UserError: there is no run, no checkout, or it cannot be written.
    """
    if not is_run(run) or not (kept := rows(run)):
        raise CheckpointError(str(run), "is no run folder that knows its environment", "give one that train.py made")
    if not (ROOT / "train.py").is_file():
        raise ConfigError(str(ROOT), "is no checkout of groundup, whose code is to be kept", "run it from a checkout")
    config = segments.read(run)[0]
    data = Path(config["data"]["path"])
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) if data.is_dir() else data_bytes + 1
    whole = size <= data_bytes
    if data.is_dir() and Manifest.read(data).digest != kept[-1]["data"]:
        raise CheckpointError(f"data.path={data}", "is not what the run read", "restore it, or archive elsewhere")
    says = "the shards" if whole else f"left out: {data}, manifest {kept[-1]['data']}; prepare it again and give --data"
    environment = kept[-1]["environment"]
    made = {
        "README.md": README.format(data=says),
        "Dockerfile": DOCKERFILE.format(python=environment["python"]["version"]),
        "requirements.lock": lock(environment["packages"]),
    }
    names = []
    with atomic_file(out) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, text in made.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, BytesIO(text.encode()))
            names.append(name)
        parts = [("code", ROOT, CODE), ("run", run, FIGURES), *([("data", data, (".",))] if whole else [])]
        for place, folder, wanted in parts:
            for path in _files(folder, wanted):
                names.append(f"{place}/{path.relative_to(folder)}")
                tar.add(path, names[-1], recursive=False)
    return names


def lock(packages: dict[str, str]) -> str:
    """Versions as pip reads them, without a build's local mark, which names no release, and without groundup."""
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in packages.items() if name != "groundup"]
    return "\n".join(lines) + "\n"


def _files(folder: Path, wanted: Sequence[str]) -> Iterator[Path]:
    for name in wanted:
        place = folder / name
        found = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run, or one that holds only one")
    parser.add_argument("--out", help="the file to write; by default RUN/archive.tar.gz")
    parser.add_argument("--data-megabytes", type=float, default=256.0, help="leave shards of more out")
    options: Any = parser.parse_args(arguments)
    return answered(lambda: _packed(options))


def _packed(options: Any) -> int:
    run = find(options.run)
    out = Path(options.out) if options.out else run / "archive.tar.gz"
    names = archive(run, out, int(options.data_megabytes * 1e6))
    print(json.dumps({"archive": str(out), "files": len(names), "megabytes": round(out.stat().st_size / 1e6, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
