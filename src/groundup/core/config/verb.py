"""What all verbs share: plugins, help, composition, and errors as one line with exit code 2."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from groundup.core import ranks
from groundup.core.config.compose import instantiate, store
from groundup.core.config.explain import explain
from groundup.core.config.schema import groups
from groundup.core.errors import ConfigError, UserError, nearest
from groundup.core.files import storage_error

LATER_SECONDS = 3.0
"""How long a rank above 0 keeps an error to itself."""


def verb(root: type) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Turn `main(config)` into a command-line program composed by Hydra from the script's `conf/` folder.

    The script's own folder leaves `sys.path` first: our `evaluate.py` would otherwise shadow the package
    of that name that lm-eval imports. Modules named by `plugins=[...]` are imported before composition, so
    that the components they register are options like any other.
    """

    def decorate(main: Callable[[Any], None]) -> Callable[[], None]:
        script = Path(main.__code__.co_filename).resolve()
        failed: list[UserError] = []
        name = str(root.__dataclass_fields__["kind"].default)  # type: ignore[attr-defined]  # schema() made it

        @functools.wraps(main)
        def program() -> None:
            forget_script_folder(script.parent)
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on; they are told in one line below
            failed.clear()
            try:
                import_plugins(sys.argv[1:])
                store()
                if help_wanted(sys.argv[1:]):
                    print(explain(name, root, script.parent / "conf", sys.argv[1:]))
                    return
                hydra.main(version_base="1.3", config_path=str(script.parent / "conf"), config_name=name)(task)()
            except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
                failed.append(tell(error))
            if failed:
                sys.exit(failed[0].exit_code)

        def task(tree: DictConfig) -> None:
            try:
                main(instantiate(tree))
            except (UserError, OSError) as error:
                failed.append(tell(error))
                if HydraConfig.get().mode != RunMode.MULTIRUN:
                    sys.exit(failed[0].exit_code)  # in a multirun the other jobs go on

        return program

    return decorate


def tell(error: Exception) -> UserError:
    """Print an error the user can act on as one line; anything else is raised as it is.

    What is wrong for all ranks, rank 0 tells; the others wait a moment, in which whatever launched them ends them, and
    speak only where they alone may have something to tell.
    """
    told = as_user_error(error)
    if told is None:
        raise error
    if _later():
        if told.by_all:
            return told
        time.sleep(LATER_SECONDS)
    print(f"error: {told}", file=sys.stderr, flush=True)
    return told


def _later() -> bool:
    try:
        return ranks.rank() > 0
    except ConfigError:  # this very process's place is what is wrong
        return False


def command() -> list[str]:
    """The command line that runs this very job once more, of a multirun this one of its jobs.

    Raises:
        ConfigError: no verb runs here.
    """
    if not HydraConfig.initialized():
        raise ConfigError("launcher", "starts a command line again, and there is none here", "run python train.py")
    given = sys.argv[1:]
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        kept = [word for word in given if word.startswith("-") or not re.match(r"[~+]|.*=", word)]
        given = [word for word in kept if word not in ("-m", "--multirun")] + list(HydraConfig.get().overrides.task)
    return [sys.executable, str(Path(sys.argv[0]).resolve()), *given]


def forget_script_folder(folder: Path) -> None:
    """Remove a folder (and the empty entry that may stand for it) from the import path."""
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != folder]


def help_wanted(arguments: list[str]) -> bool:
    """Whether the command line asks for our help page."""
    return "--help" in arguments or "-h" in arguments


def import_plugins(arguments: list[str]) -> None:
    """Import each module that a `plugins=a` or `plugins=[a,b]` override names.

    Raises:
        ConfigError: a module that cannot be imported, with the reason.
    """
    for argument in arguments:
        if not argument.lstrip("+").startswith("plugins="):
            continue
        for module in re.findall(r"[\w.]+", argument.split("=", 1)[1]):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(f"plugins={module}", f"cannot be imported ({error})", "install it") from None


def as_user_error(error: Exception) -> UserError | None:
    """Restate an error of Hydra, OmegaConf or the file system as one line; None if it is a bug of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        where = f"{group}={option}" if group else f"--config-name {option}"
        known = groups()[group].kinds if group in groups() else {}
        return ConfigError(where, "no such option", nearest(option, [*(error.options or ()), *known]))
    if isinstance(error, OSError):
        return storage_error(Path(error.filename), error) if isinstance(error.filename, str) else None
    if isinstance(error, OverrideParseException):
        remedy = """write key=value, quoted for the shell, or 'key="value"' where the value holds signs"""
        return ConfigError(error.override, "cannot be read as an override", remedy)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, OmegaConfBaseException):
        return _tree_error(cause, str(error))
    first = str(error).splitlines()[0]
    missing = re.match(r"You must specify '(.+?)'", first)
    if missing:
        return ConfigError(missing[1], "needs a choice", f"give {missing[1]}=<option>; see --help")
    unknown = re.match(r"Could not override '(.+?)'", first)
    if unknown:
        return _unknown_group(unknown[1])
    return ConfigError("config", first, "see --help")


def _unknown_group(where: str) -> ConfigError:
    name = where.partition("=")[0]
    return ConfigError(where, "is not a group or key of this verb", nearest(name.split("@")[0], groups()))


def _tree_error(cause: OmegaConfBaseException, outer: str) -> ConfigError:
    key = str(cause.full_key or cause.key or "config")
    first = (cause.msg or str(cause)).splitlines()[0]
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(key, "needs a value", f"give {key}=...")
    if isinstance(cause, ValidationError):
        given = re.match(r"Error merging override (.+)", outer.splitlines()[0])
        return ConfigError(given[1] if given else key, first, f"give {key} a value of its type; see --help")
    if isinstance(cause, ConfigKeyError | AttributeError):
        parent, _, name = key.rpartition(".")
        kind = cause.object_type
        if kind is not None and hasattr(kind, "__dataclass_fields__"):
            return ConfigError(key, "no such option", nearest(name, kind.__dataclass_fields__))
        entry = groups().get(key.split(".")[0])
        if entry is not None and entry.many:
            chosen = key.split(".")[1] if "." in key else name
            if chosen in entry.kinds:
                return ConfigError(key, f"{chosen} is not chosen", f"choose it: {entry.name}=[...,{chosen}]")
            return ConfigError(key, "no such option", nearest(chosen, entry.kinds))
        what = f"{parent or 'the config'} holds no such key"
        return ConfigError(key, what, f"add it with +{key}=... if it is meant to be new, or see --help")
    return ConfigError(key, first, "see --help")
