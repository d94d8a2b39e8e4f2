"""Who is who among the processes, in Lightning's terms; it starts none and asks `groundup.core.ranks` alone."""

from __future__ import annotations

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from typing_extensions import override

from groundup.core import ranks


class Ranks(ClusterEnvironment):
    """Who is who, for Lightning, whatever launched the processes (see `groundup.core.ranks`)."""

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @property
    @override
    def main_address(self) -> str:
        return ranks.meeting_place()[0]

    @property
    @override
    def main_port(self) -> int:
        return ranks.meeting_place()[1]

    @staticmethod
    @override
    def detect() -> bool:
        return True

    @override
    def world_size(self) -> int:
        return ranks.world()

    @override
    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    @override
    def global_rank(self) -> int:
        return ranks.rank()

    @override
    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    @override
    def local_rank(self) -> int:
        return ranks.local_rank()

    @override
    def node_rank(self) -> int:
        return ranks.rank() // ranks.local_world()
