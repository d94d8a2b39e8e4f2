"""Laws of the meeting of ranks: whoever is missing is named, on every rank that came, and nobody waits for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.strategy.meeting import arrive, meeting_store
from groundup.strategy.starts import part_of_start

HOST = socket.gethostname()
LIMIT = timedelta(seconds=1.2)


@pytest.fixture
def come(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ConfigError | None]]:
    """Ranks that come to one store at once, a thread for each; for each what it was refused with, if it was."""

    def go(
        world: int, *comers: int | tuple[int, int], local: int = 2, patience: float = 60.0
    ) -> list[ConfigError | None]:
        variables = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
        for name, value in {**variables, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local)}.items():
            monkeypatch.setenv(name, value)
        store = HashStore()

        def one(comer: int | tuple[int, int]) -> ConfigError | None:
            rank, claimed = comer if isinstance(comer, tuple) else (comer, world)
            try:
                arrive(store, rank, claimed, LIMIT, patience)
            except ConfigError as error:
                return error
            return None

        with ThreadPoolExecutor(len(comers)) as pool:
            return list(pool.map(one, comers))

    return go


def test_rank_0_finds_the_store_again_on_a_socket_it_was_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    monkeypatch.setenv("MASTER_PORT", str(listening.getsockname()[1]))
    monkeypatch.setenv(ranks.LISTENING, str(listening.detach()))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    first = meeting_store(LIMIT)
    assert ranks.LISTENING not in os.environ
    first.set("said", "once")
    assert meeting_store(LIMIT).get("said") == b"once"


def test_ranks_that_all_come_go_on(come) -> None:
    assert come(3, 0, 1, 2) == [None] * 3


def test_a_rank_that_does_not_come_is_named_on_every_rank_with_the_machine_it_should_be_on(come) -> None:
    told = [str(error) for error in come(8, 0, 1, 2, 3, 4, 5, 6)]
    line = f"rank 7 on {HOST}: did not come within 1 s; see what they say, or their logs"
    assert told == [line] * 7


def test_several_that_do_not_come_are_named_and_a_machine_nobody_came_from_is_not_made_up(come) -> None:
    first, *_ = come(8, 0, 3)
    assert str(first).startswith(f"ranks 1-2, 4-7 on {HOST}: did not come within")


def test_a_long_wait_is_told_of_meanwhile_by_rank_0_alone(come, capfd) -> None:
    come(4, 0, 1, 2, patience=0.5)
    told = capfd.readouterr().err.splitlines()
    assert told and set(told) <= {f"waiting: rank 3 on {HOST} has not arrived after {n} s" for n in (0, 1, 2)}


def test_two_processes_of_one_rank_end_the_meeting(come) -> None:
    told = come(3, 0, 1, 1)
    assert all(error is not None and str(error).startswith("RANK=1: another process says so too") for error in told)
    assert sorted(error.by_all for error in told) == [False, True, True]  # the one too many speaks for itself


def test_ranks_of_worlds_of_different_size_end_the_meeting(come) -> None:
    told = come(3, 0, 1, (2, 4))
    assert {str(error) for error in told} == {"WORLD_SIZE=4 on rank 2: rank 0 has WORLD_SIZE=3; launch all ranks alike"}
    first, second, third = come(2, 0, 1, (2, 3))
    assert first is None and second is None
    assert str(third) == "WORLD_SIZE=3 on rank 2: rank 0 has WORLD_SIZE=2; launch all ranks alike"
    assert third is not None and not third.by_all


def test_starts_of_more_and_fewer_ranks_meet_one_after_another_at_a_store_that_outlives_them() -> None:
    """As torchrun's does when a machine is lost and another comes, though agents count restarts differently."""
    store, seen = HashStore(), set[bytes]()

    def one(rank: int, world: int) -> bytes:
        part, answer = part_of_start(store, rank, LIMIT)
        arrive(part, rank, world, LIMIT, 60.0, answer)
        if rank == 0:
            part.set("whose", f"{world} {len(seen)}")
        return part.get("whose")

    for world in (4, 3, 4, 1, 2):
        with ThreadPoolExecutor(world) as pool:
            told = set(pool.map(one, reversed(range(world)), [world] * world))  # rank 0 comes last
        assert told == {f"{world} {len(seen)}".encode()}
        seen |= told


def test_a_start_whose_rank_0_does_not_come_ends_though_an_earlier_one_had_one() -> None:
    store = HashStore()
    part_of_start(store, 0, LIMIT)[1]()
    with pytest.raises(ConfigError, match=r"^rank 0: does not answer any more"):
        part_of_start(store, 1, timedelta(seconds=0.2))


@pytest.mark.parametrize(
    ("numbers", "hosts", "words"),
    [
        ([3], {3: "b"}, "rank 3 on b"),
        ([0, 1, 2, 5], {0: "a", 5: "b"}, "ranks 0-2, 5 on a, b"),
        ([4, 2], {}, "ranks 2, 4"),
        (list(range(10)), {n: f"h{n // 2}" for n in range(10)}, "ranks 0-9 on h0, h1, h2 and 2 more"),
    ],
)
def test_ranks_in_words(numbers, hosts, words) -> None:
    assert ranks.described(numbers, hosts) == words
