"""Documents in plain text files of the user's; it does not judge what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groundup.corpus.document import Document
from groundup.corpus.files import check_readable, decode, expand, lines, opened, stamp


class Text:
    """Plain text files, possibly compressed.

    Args:
        given: paths, globs or folders.
        suffixes: what plain text files end in.
        unit: what one document is: a whole `file`, a `paragraph` (ended by an empty line) or a `line`.
    """

    def __init__(self, given: Sequence[str], suffixes: Sequence[str], unit: str) -> None:
        self._given = given
        self._suffixes = suffixes
        self._unit = unit

    def _files(self) -> list[Path]:
        return expand(self._given, self._suffixes)

    def documents(self) -> Iterator[Document]:
        """Every file, paragraph or line that is not blank, in the order of the files' names."""
        for path in self._files():
            if self._unit == "file":
                with opened(path) as file:
                    content = file.read()
                yield Document(decode(content.removeprefix(b"\xef\xbb\xbf"), path), {"file": str(path)})
            elif self._unit == "line":
                for number, line in lines(path):
                    if line.strip():
                        yield Document(line.rstrip("\r\n"), {"file": str(path), "line": number})
            else:
                yield from _paragraphs(path)

    def check(self) -> None:
        """Find missing, unreadable and empty files."""
        check_readable(self._files())

    def stamp(self) -> dict[str, Any]:
        """The files' state."""
        return stamp(self._files())


def _paragraphs(path: Path) -> Iterator[Document]:
    held: list[str] = []
    first = 0
    for number, line in lines(path):
        if line.strip():
            first = first if held else number
            held.append(line)
        elif held:
            yield Document("".join(held).rstrip(), {"file": str(path), "line": first})
            held = []
    if held:
        yield Document("".join(held).rstrip(), {"file": str(path), "line": first})
