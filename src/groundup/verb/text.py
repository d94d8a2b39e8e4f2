"""A file of text in the place of prepared data: prepared with the tokenizer of the weights that are begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core import ranks
from groundup.core.config import fingerprint, from_dict
from groundup.core.errors import ConfigError
from groundup.core.files import checksum
from groundup.tokenizer.protocol import CARD
from groundup.trainer.console import say
from groundup.verb.prepare import Prepare

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text", ".md": "text"}
PACKED = (".gz", ".zst")
SOURCE = {"text": {"document": "paragraph"}}
"""Options of a kind: a file that is one document would leave nothing to hold out."""


def is_text(path: str) -> bool:
    """Whether a data path names a file, where shards stand in a folder."""
    return "://" not in path and Path(path).expanduser().is_file()


def prepared(path: str, begun_with: str | None) -> Path:
    """The data folder that a file of text becomes, beside other data; a second run finds it there.

    Args:
        path: a file that prepare.py reads.
        begun_with: model folder whose tokenizer is taken; None: there is none.

    Raises:
        ConfigError: no tokenizer is known, the file is of no known kind, or several processes train.
        UserError: as prepare.py.
    """
    file = Path(path).expanduser()
    name = next((file.name.removesuffix(end) for end in PACKED if file.name.endswith(end)), file.name)
    kind = KINDS.get(Path(name).suffix.lower())
    if kind is None:
        raise ConfigError(f"data.path={path}", "is a file of no known kind", f"known: {', '.join(KINDS)}")
    if begun_with is None:
        what = "is text, and there are no weights whose tokenizer could be taken"
        command = f"python prepare.py 'source=[{kind}]' source.{kind}.path={path} path=data/{Path(name).stem}"
        raise ConfigError(f"data.path={path}", what, f"prepare it first: {command}")
    tokenizer = Path(begun_with) / "tokenizer"
    content = fingerprint([str(tokenizer), checksum(tokenizer / CARD), checksum(file)])  # another text, another folder
    folder = Path("data") / f"{Path(name).stem}-{content[:8]}"
    options: dict[str, Any] = {
        "name": folder.name,
        "path": str(folder),
        "source": {kind: from_dict("source", {"kind": kind, "path": str(file), **SOURCE.get(kind, {})})},
        "step": {step: from_dict("step", {"kind": step}) for step in ("unicode", "length", "duplicate")},
        "tokenizer": from_dict("tokenizer", {"kind": "pretrained", "path": str(tokenizer)}),
    }
    if ranks.world() > 1 and not folder.is_dir():
        what = "is text, and several processes would prepare it at once"
        raise ConfigError(f"data.path={path}", what, "run once with one process and stop_steps=1")
    say(f"{path} is text: preparing it as {folder} with the tokenizer of {begun_with}")
    prepare = Prepare(**options)
    prepare.check()
    return prepare.run()
