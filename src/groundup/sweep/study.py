"""The study in its folder: which trials there are, whose turn is next, how each ended; how one runs is not known here.

Every change is made under the study's lock, and a trial's own lock is held by whoever runs it. So several
processes share a study, and a trial whose holder was killed is seen to be free and taken up again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from groundup.core.bits import OF_TEXT
from groundup.core.config import to_dict
from groundup.core.errors import ConfigError, DataError
from groundup.core.files import make_folder, storage_error
from groundup.core.keyed import derive
from groundup.sweep.config import TRIALS, Parameter, Search
from groundup.sweep.lock import locked, take
from groundup.sweep.space import Chosen, Space, applies, points

JOURNAL = "study.journal"
LOCK = "study.lock"
NAME = "study"
"""Of the one study in a journal, so that its folder can be renamed."""

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
PLAN, ENDING, GIVEN_UP = "plan", "ending", "given_up"
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Attributes:
        state: "complete", "pruned" or "failed".
        value: held-out bits per byte; of the last look where pruned, None where failed.
        tokens: how many it trained on.
        seconds: how long it took.
        reason: why it did not end well, in one line.
    """

    state: str
    value: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """A trial as the tables show it; `state` may also be "running"."""

    number: int
    state: str
    chosen: Chosen
    value: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""
    looks: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """A trial that this process holds.

    Attributes:
        number: of the trial.
        chosen: its parameters.
        lock: descriptor of its lock.
        given_up: tokens at which it was pruned, though nobody wrote it down as ended yet.
    """

    number: int
    chosen: Chosen
    lock: int
    given_up: int | None = None


class JournalLock(JournalFileOpenLock):
    """Optuna's journal under a lock that a killed process cannot leave behind, and without a line it left half."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock; then drop a last line that was cut off, to which Optuna would append."""
        self._descriptor = take(self.journal.with_suffix(".journal.lock"), wait=True)
        if self.journal.exists():
            with self.journal.open("rb+") as file:
                whole = file.read()
                if not whole.endswith(b"\n"):
                    file.truncate(whole.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def load(folder: Path, sampler: BaseSampler, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    """Optuna's study in a folder, made if it is not there.

    Raises:
        StorageError: the folder cannot be written.
        DataError: the journal is damaged.
    """
    path = folder / JOURNAL
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
        known = [study.study_name for study in storage.get_all_studies()]
        get = optuna.load_study if NAME in known else optuna.create_study  # which writes even where it loads
        return get(storage=storage, study_name=NAME, sampler=sampler, pruner=pruner)
    except OSError as error:
        raise storage_error(path, error) from error
    except (ValueError, KeyError, AttributeError) as error:
        remedy = "restore it from a copy, or give sweep.study another name"
        raise DataError(str(path), f"is damaged ({error})", remedy) from error


class Grid(BaseSampler):
    """Trial n is point n: Optuna's own grid knows no conditions."""

    def __init__(self, points: list[Chosen]) -> None:
        self.points = points

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """Nothing is drawn together."""
        del study, trial
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Nothing."""
        del study, trial, search_space
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, *_: Any, **__: Any) -> Any:
        """The point's value, as Optuna holds it."""
        del study
        return _held(self.points[trial.number][param_name])


class Study:
    """A study opened for searching.

    Args:
        folder: of the study; made where missing.
        search: its options.
        base: what defines the mathematics of every trial beside its parameters, as plain values.
        unit: what trials are measured in.

    Raises:
        ConfigError: the study was made with another space, sampler, seed or base.
        StorageError, DataError: as `load`.
    """

    def __init__(self, folder: Path, search: Search, base: dict[str, Any], unit: str = OF_TEXT) -> None:
        self.folder, self.search, self.unit = folder, search, unit
        self._points = points(search.space) if search.sampler == "grid" else []
        self.total = (
            min(search.trials or len(self._points), len(self._points)) if self._points else (search.trials or TRIALS)
        )
        make_folder(folder)
        with self._locked():
            self._study = load(folder, RandomSampler())
            plan = {"space": to_dict(search.space), "sampler": search.sampler, "seed": search.seed, "base": base}
            made = self._study.user_attrs.get(PLAN)
            if made is None:
                self._study.set_user_attr(PLAN, plan)
            else:
                _expect(search.study, made, plan)

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own view, for its plots."""
        return self._study

    def next(self) -> Taken | None:
        """A trial to run, None where there is none that others do not run already.

        A trial that nobody holds any more comes before a new one, with the parameters it had.
        """
        with self._locked():
            trials = self._study.get_trials(deepcopy=False)
            running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
            for number in running:
                lock = take(self._lock_of(number), wait=False)
                if lock is not None:
                    return self._taken(number, lock)
            if len(trials) < self.total:
                self._study.sampler = self._sampler(len(trials))
                number = self._study.ask().number
                lock = take(self._lock_of(number), wait=True)
                assert lock is not None
                return self._taken(number, lock)
        return None

    def ended(self) -> bool:
        """Whether the study has all its trials, and none of them is under way."""
        trials = self._study.get_trials(deepcopy=False)
        return len(trials) >= self.total and all(trial.state.is_finished() for trial in trials)

    def end(self, taken: Taken, ending: Ending) -> None:
        """Write down how a trial ended, and let go of it."""
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        with self._locked():
            trial = self._trial(taken.number)
            trial.set_user_attr(ENDING, {"tokens": ending.tokens, "seconds": ending.seconds, "reason": ending.reason})
            value = ending.value if ending.state == "complete" else None
            self._study.tell(trial, value, states[ending.state])
        os.close(taken.lock)

    def given_up(self, number: int) -> int | None:
        """The tokens at which a trial was told to stop, None where it was not."""
        tokens: int | None = self._trial(number).user_attrs.get(GIVEN_UP)
        return tokens

    def rows(self) -> list[Row]:
        """Every trial so far."""
        return [_row(trial, self.search.space) for trial in self._study.get_trials(deepcopy=False)]

    def folder_of(self, number: int) -> Path:
        """Where a trial's run, its output and its lock are."""
        return self.folder / trial_name(number)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / LOCK):
            yield

    def _lock_of(self, number: int) -> Path:
        return make_folder(self.folder_of(number)) / "lock"

    def _sampler(self, number: int) -> BaseSampler:
        """Drawing trial n is keyed by n, so neither a restart nor another process draws the same again."""
        seed = derive(self.search.seed, "trial", number) % 2**32
        if self.search.sampler == "grid":
            return Grid(self._points)
        if self.search.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self.search.random_trials)

    def _trial(self, number: int) -> Trial:
        return trial_of(self._study, number)

    def _taken(self, number: int, lock: int) -> Taken:
        """Draw what a trial has not drawn yet: all of it, or what a kill left out."""
        self._study.sampler = self._sampler(number)
        trial = self._trial(number)
        chosen: Chosen = {}
        for name, parameter in self.search.space.items():
            if applies(parameter, chosen):
                chosen[name] = draw(trial, name, parameter)
        return Taken(number, chosen, lock, self.given_up(number))


def trial_of(study: optuna.Study, number: int) -> Trial:
    """A trial that is under way."""
    storage = study._storage
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def trial_name(number: int) -> str:
    """The run name of a trial."""
    return f"trial-{number:03d}"


def draw(trial: Trial, name: str, parameter: Parameter) -> Any:
    """A value for a parameter: the one it has, or a new one."""
    if parameter.choices:
        held = [_held(value) for value in parameter.choices]
        return parameter.choices[held.index(trial.suggest_categorical(name, held))]
    assert parameter.low is not None and parameter.high is not None
    if parameter.integer:
        step = int(parameter.step or 1)
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), step=step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def _held(value: Any) -> Any:
    """A choice as Optuna holds it, which knows no lists."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _row(trial: FrozenTrial, space: Space) -> Row:
    ending = trial.user_attrs.get(ENDING, {})
    chosen = {}
    for name, held in trial.params.items():
        choices = space[name].choices
        chosen[name] = choices[[_held(value) for value in choices].index(held)] if choices else held
    return Row(
        number=trial.number,
        state=STATES[trial.state.name],
        chosen={name: chosen[name] for name in space if name in chosen},
        value=trial.value,
        tokens=ending.get("tokens", 0),
        seconds=ending.get("seconds", 0.0),
        reason=ending.get("reason", ""),
        looks=dict(trial.intermediate_values),
    )


def _expect(study: str, made: dict[str, Any], mine: dict[str, Any]) -> None:
    """A study goes on only with what it was made with."""
    for part, name in (("space", "space"), ("sampler", "sampler"), ("seed", "seed"), ("base", "config")):
        difference = _difference(made.get(part), mine[part])
        if difference:
            where, there, here = difference
            raise ConfigError(
                f"sweep.study={study}",
                f"was made with another {name}: {f'{where} is ' if where else ''}{there} there and {here} here",
                "give sweep.study another name, or what it was made with",
            )


def _difference(there: Any, here: Any) -> tuple[str, Any, Any] | None:
    """The first dotted key at which two plain values differ, and the two values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            if key not in there or key not in here:
                return str(key), _stated(key, there), _stated(key, here)
            found = _difference(there[key], here[key])
            if found:
                return f"{key}.{found[0]}" if found[0] else str(key), found[1], found[2]
        return None
    return None if there == here else ("", there, here)


def _stated(key: Any, side: dict[str, Any]) -> str:
    return "stated" if key in side else "absent"
