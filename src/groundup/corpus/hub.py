"""Documents of a data set on Hugging Face's hub, one a row, by the package `datasets`; it judges no text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import datasets

from groundup.core.errors import DataError, nearest
from groundup.corpus import config
from groundup.corpus.document import Document


class Hub:
    """The rows of a split, in their order.

    Args:
        options: which data set, and how it is read.
    """

    def __init__(self, options: config.Hub) -> None:
        self._options = options

    def documents(self) -> Iterator[Document]:
        """The text of every row; null counts as an empty one."""
        options = self._options
        for number, row in enumerate(islice(self._rows(), options.documents)):
            text = row[options.column]
            if text is not None and not isinstance(text, str):
                what = f"column {options.column} is no text but {type(text).__name__} in row {number}"
                raise DataError(options.path, what, "give column=...")
            yield Document(text or "", {"dataset": options.path, "row": number})

    def check(self) -> None:
        """Reach the data set, and find the column."""
        first = next(iter(self._rows(streaming=True)), None)
        if first is None:
            raise DataError(self._options.path, f"split {self._options.split} holds no row", "give split=...")
        if self._options.column not in first:
            what = f"has no column {self._options.column}"
            raise DataError(self._options.path, what, f"give column=...; {nearest(self._options.column, first)}")

    def stamp(self) -> dict[str, Any]:
        """Which data set; the newest revision counts as one, whatever it holds."""
        options = self._options
        return {"dataset": options.path, "part": options.part, "split": options.split, "revision": options.revision}

    def _rows(self, streaming: bool | None = None) -> Any:
        options = self._options
        datasets.disable_progress_bars()
        try:
            return datasets.load_dataset(
                options.path,
                options.part,
                split=options.split,
                data_files=options.files or None,
                revision=options.revision,
                streaming=options.streaming if streaming is None else streaming,
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            remedy = "see its page on the hub for names, parts and splits; reading it needs the network"
            raise DataError(f"path={options.path}", f"cannot be had ({first})", remedy) from None
