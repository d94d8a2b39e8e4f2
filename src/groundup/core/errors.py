"""Errors a user can act on: each is one line that says where, what happened and what to do next."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can put right; a verb prints it as one line and exits with code 2.

    Attributes:
        exit_code: what a verb exits with.
        by_all: whether every rank of a job raises it, so that rank 0 alone need tell it.

    Args:
        where: the dotted config key, with its value if it has one, or the file concerned.
        what: what is wrong there, and what would be allowed.
        remedy: what to do next.
    """

    exit_code = 2
    by_all = False

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(where, what, remedy)
        self.where = where
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}; {self.remedy}".split())

    def under(self, prefix: str) -> UserError:
        """The same error with `where` placed below the dotted `prefix`."""
        return type(self)(f"{prefix}.{self.where}" if prefix else self.where, self.what, self.remedy)


class ConfigError(UserError):
    """A value, key or combination in the config that cannot be."""


class DataError(UserError):
    """Missing, damaged or unsuitable input: corpora, shards, tokenizers."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or another model's."""


class StorageError(UserError):
    """A place that cannot be written: read-only, full, or not ours."""


class RankError(UserError):
    """A process of several that failed, and with it the job; a verb exits as it did."""

    def __init__(self, where: str, what: str, remedy: str, exit_code: int = 1) -> None:
        super().__init__(where, what, remedy)
        self.exit_code = exit_code


def nearest(name: str, names: Iterable[str]) -> str:
    """A short phrase naming the closest of `names`, or all of them when none is close."""
    known = sorted(set(names))
    if not known:
        return "there are none"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def require(module: str, where: str, requirements: str) -> None:
    """See that a package is there which only some users need; it is not imported.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(where, f"needs {module}, which is not installed", f"pip install -r {requirements}")


def answered(program: Callable[[], int]) -> int:
    """The exit code of a program; a mistake of the user's is one line on standard error, and has its own."""
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
