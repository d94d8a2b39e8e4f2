"""What a search needs of the program it searches over; how it composes its config is not known here."""

from __future__ import annotations

from typing import Any, Protocol


class Program(Protocol):
    """The program that is searched over, with the overrides it was called with."""

    def compose(self, overrides: list[str]) -> Any:
        """Its config, these overrides in the place of the given ones.

        Raises:
            UserError: there is no such config.
        """

    def command(self, overrides: list[str]) -> list[str]:
        """The command line that runs this config."""
