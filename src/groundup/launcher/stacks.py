"""Who stands where: reads what faulthandler wrote of several ranks and names those that the others wait for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from groundup.core.ranks import described

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_CURRENT = "Current thread"
_WAITING = ("torch/distributed/", "torch/autograd/graph.py")
"""Where a rank is that waits in a collective: those of Python, and those that the backward pass begins."""


@dataclass(frozen=True)
class Place:
    """The innermost Python frame of a thread.

    Attributes:
        file: its source.
        line: counted from 1.
        function: its name.
    """

    file: str
    line: int
    function: str

    @property
    def waits(self) -> bool:
        """Whether a rank that stands there waits for others."""
        return any(part in self.file.replace("\\", "/") for part in _WAITING)

    def __str__(self) -> str:
        return f"{self.function} ({PurePath(self.file).name}:{self.line})"


def place(text: str) -> Place | None:
    """Where the main thread stands, which is the one that a signal reaches; None if it told nothing."""
    match = _FRAME.search(text, max(0, text.rfind(_CURRENT)))
    return Place(match[1], int(match[2]), match[3]) if match else None


def who_stands_where(texts: Mapping[int, str], hosts: Mapping[int, str]) -> str:
    """A phrase that names first the ranks which others wait for.

    Those are the ranks outside of a collective; where nobody is seen in one, or nobody outside, those that stand
    elsewhere than most.

    Args:
        texts: by rank, what faulthandler wrote; empty where a rank wrote nothing, since it is stopped or gone.
        hosts: by rank, its machine.
    """
    places = {rank: place(text) for rank, text in texts.items()}
    count = Counter(places.values())
    most, times = count.most_common(1)[0]
    outside = [rank for rank, at in places.items() if at is None or not at.waits]
    if len(outside) in (0, len(places)):
        outside = [rank for rank, at in places.items() if at != most] if 2 * times > len(places) else []
    groups: dict[tuple[bool, Place | None], list[int]] = {}
    for rank, at in sorted(places.items()):
        groups.setdefault((rank not in outside, at), []).append(rank)
    told = []
    for (_, at), members in sorted(groups.items(), key=lambda group: (group[0][0], group[1])):
        one = len(members) == 1
        verb = ("waits" if one else "wait") + " in a collective," if at and at.waits else "stands" if one else "stand"
        told.append(described(members, hosts) + (f" {verb} in {at}" if at else " told nothing"))
    return "; ".join(told)
