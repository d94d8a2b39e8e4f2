"""What a document is, and what a source of documents must offer; it knows no place a document may come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from groundup.core.split import fingerprint


@dataclass(frozen=True, slots=True)
class Document:
    """One text with where it was read.

    Attributes:
        text: the text.
        origin: what finds it again in its source, e.g. `{"file": "a.jsonl", "line": 3}`.
    """

    text: str
    origin: dict[str, str | int]

    @property
    def place(self) -> str:
        """The origin in words."""
        return ", ".join(f"{key} {value}" for key, value in self.origin.items())

    @property
    def fingerprint(self) -> str:
        """A hash of the text alone, 32 hexadecimal digits: equal texts are equal wherever they stand."""
        return fingerprint(self.text)


class Source(Protocol):
    """Where documents come from, in an order that does not change; reading again gives the same documents."""

    def documents(self) -> Iterator[Document]:
        """Every document, in constant memory.

        Raises:
            DataError: something that cannot be read, naming the file and the line.
        """
        ...

    def check(self) -> None:
        """Find what is wrong without reading everything.

        Raises:
            DataError: a package or file that is missing, unreadable or of the wrong kind.
        """
        ...

    def stamp(self) -> dict[str, Any]:
        """What says that the source is still the same: a package's version, or the files' names, sizes and times."""
        ...
