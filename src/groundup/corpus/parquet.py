"""Documents in Parquet files, the text in one column; it does not judge what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types

from groundup.core.errors import DataError, nearest
from groundup.corpus.document import Document
from groundup.corpus.files import expand, opened, stamp


class Parquet:
    """Parquet files, the text in one column; null counts as an empty text.

    Args:
        given: paths, globs or folders.
        column: the column that holds the text.
    """

    SUFFIXES = (".parquet",)
    ROWS = 1024  # in memory at a time

    def __init__(self, given: Sequence[str], column: str) -> None:
        self._given = given
        self._column = column

    def _files(self) -> list[Path]:
        return expand(self._given, self.SUFFIXES)

    def documents(self) -> Iterator[Document]:
        """The text of every row."""
        for path in self._files():
            number = 0
            with opened(path) as raw:
                try:
                    for batch in self._open(raw, path).iter_batches(batch_size=self.ROWS, columns=[self._column]):
                        for text in batch.column(0).to_pylist():
                            yield Document(text or "", {"file": str(path), "row": number})
                            number += 1
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    what = f"is damaged near row {number} ({str(error).splitlines()[0]})"
                    raise DataError(str(path), what, "restore it from a copy") from None

    def _open(self, raw: Any, path: Path) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(raw)
        except (pa.ArrowException, OSError) as error:
            raise DataError(str(path), f"is no Parquet file ({error})", "restore it from a copy") from None
        schema = file.schema_arrow
        if self._column not in schema.names:
            raise DataError(str(path), f"has no column {self._column}", nearest(self._column, schema.names))
        kind = schema.field(self._column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(str(path), f"column {self._column} is no text but {kind}", "give column=...")
        return file

    def check(self) -> None:
        """Find missing, unreadable, damaged and empty files, and files without the column."""
        rows = 0
        files = self._files()
        for path in files:
            with opened(path) as raw:
                rows += self._open(raw, path).metadata.num_rows
        if not rows:
            raise DataError(str(files[0]), "holds no rows", "give files that have some")

    def stamp(self) -> dict[str, Any]:
        """The files' state."""
        return stamp(self._files())
