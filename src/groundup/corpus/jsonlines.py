"""Documents in files of JSON lines, the text in one field; it does not judge what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groundup.core.errors import DataError, nearest
from groundup.corpus.document import Document
from groundup.corpus.files import check_readable, expand, lines, stamp


class JsonLines:
    """One JSON object a line, its text in one field; null counts as an empty text.

    Args:
        given: paths, globs or folders.
        field: the field that holds the text; dots lead into inner objects.
    """

    SUFFIXES = (".jsonl", ".ndjson")

    def __init__(self, given: Sequence[str], field: str) -> None:
        self._given = given
        self._field = field

    def _files(self) -> list[Path]:
        return expand(self._given, self.SUFFIXES)

    def documents(self) -> Iterator[Document]:
        """The text of every line that is not blank."""
        for path in self._files():
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[Document]:
        for number, line in lines(path):
            if line.strip():
                yield Document(self._text(line, f"{path}:{number}"), {"file": str(path), "line": number})

    def _text(self, line: str, where: str) -> str:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(where, f"is not JSON ({error})", "correct the line; every line is one object") from None
        for name in self._field.split("."):
            if not isinstance(value, dict):
                raise DataError(where, f"is no object with a field {self._field}", "write one object a line")
            if name not in value:
                raise DataError(where, f"has no field {name}", f"give field=...; {nearest(name, value)}")
            value = value[name]
        if value is not None and not isinstance(value, str):
            raise DataError(where, f"field {self._field} is no text but {type(value).__name__}", "give field=...")
        return value or ""

    def check(self) -> None:
        """Find missing, unreadable and empty files, and read the first document of each."""
        files = self._files()
        check_readable(files)
        for path in files:
            next(self._read(path), None)

    def stamp(self) -> dict[str, Any]:
        """The files' state."""
        return stamp(self._files())
