"""A task's local data, looked through once the task has failed, for the row that may be why; it knows no lm-eval."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types

from groundup.core.errors import DataError

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, as file:line, and its fields."""

ENDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
OBJECT = 'each row is an object of the same fields, as {"question": "...", "answer": "..."}'


def files(configs: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The local files that tasks read in no way of their own, by their configs."""
    found: list[Path] = []
    for config in configs:
        given = config.get("dataset_kwargs") or {}
        if set(given) != {"data_files"}:  # the others say how a file is read
            continue
        data = given["data_files"]
        for value in data.values() if isinstance(data, Mapping) else [data]:
            names = value if isinstance(value, list) else [value]
            found += [Path(name) for name in names if str(name).endswith(ENDS) and Path(name).is_file()]
    return found


def blamed(error: Exception, paths: Sequence[Path]) -> DataError | None:
    """The first row that cannot be read, else that lacks or holds what the error names, else that is unlike the first.

    Args:
        error: with which the task failed.
        paths: its files.
    """
    try:
        tables = [list(read(path)) for path in paths]
    except DataError as damaged:
        return damaged
    found = (_named(rows, error) for rows in tables)
    unlike = (_unlike(rows, error) for rows in tables)
    return next((row for row in (*found, *unlike) if row is not None), None)


def told(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {next((line for line in str(error).splitlines() if line.strip()), '')}"


def read(path: Path) -> Iterator[Row]:
    """The rows of a file; none of a Parquet file, whose rows all have the same fields.

    Raises:
        DataError: with the line of a row that cannot be read.
    """
    if path.suffix == ".parquet":
        try:
            pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(str(path), f"is no Parquet file ({error})", "write it again") from None
        return
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(path), f"cannot be read ({error})", "write it again") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}", f"is no UTF-8 ({error.reason})", "save the file as UTF-8") from None
    yield from _csv(path, text) if path.suffix == ".csv" else _json(path, text)


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""))
    with suppress(csv.Error):  # what Python's own reader refuses, such as a very long cell, may be good
        header = next(reader, [])
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if len(cells) > len(header):
                what = f"has {len(cells)} cells, and the header {len(header)}"
                raise DataError(where, what, "put a cell that holds a comma between double quotes")
            if cells:
                yield where, {name: cell or None for name, cell in zip(header, cells, strict=False)}


def _json(path: Path, text: str) -> Iterator[Row]:
    """Of a list of objects, of one object, or of an object a line."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            where = f"{path}:{error.lineno}"
            raise DataError(where, _no_json(error), "give a list of objects, or an object a line") from None
        yield from _lines(path, text)
        return
    for number, row in enumerate(whole if isinstance(whole, list) else [whole], 1):
        where = f"{path}, row {number}" if isinstance(whole, list) else f"{path}:1"
        yield where, _object(where, row)


def _lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(where, _no_json(error), OBJECT) from None
            yield where, _object(where, row)


def _no_json(error: json.JSONDecodeError) -> str:
    return f"is no JSON ({error.msg} at column {error.colno})"


def _object(where: str, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(where, f"is {_kind(row)}", OBJECT)
    return row


def _named(rows: list[Row], error: Exception) -> DataError | None:
    """The row that lacks the field which an error names, or that holds the value which it names."""
    match = re.search(r"'(\w+)' is undefined|'(.+?)' is not in list", str(error))
    field, value = match.groups() if match else (None, None)
    if isinstance(error, KeyError) and error.args:
        field = value = str(error.args[0])  # which of the two, the rows must tell
    known = any(field in row for _, row in rows)
    if value is not None and not known:
        for where, row in rows:
            for name in row:
                if str(row[name]) == value:
                    what = f"has {value!r} as {name} ({told(error)})"
                    return DataError(where, what, "give it a value that the task knows")
    if field is not None:
        for where, row in rows:
            if field not in row:
                return DataError(where, f"has no field {field} ({told(error)})", f"its fields are {', '.join(row)}")
    return None


def _unlike(rows: list[Row], error: Exception) -> DataError | None:
    """The first row in which a field of the first row is missing, or of another kind."""
    first = rows[0][1] if rows else {}
    for where, row in rows:
        for name, value in first.items():
            if value is not None and _kind(row.get(name)) != _kind(value):
                what = f"has {_kind(row.get(name))} as {name}, and the first row {_kind(value)} ({told(error)})"
                return DataError(where, what, "give every row the same fields")
    return None


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return "nothing" if value is None else names.get(type(value), "an object")
