"""Whether Hugging Face's hub can be reached; where not, its libraries wait for nothing. It knows no tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from huggingface_hub import constants, get_session

PAUSE = 1.0
"""Seconds before the second try."""


def reached(tries: int = 2) -> bool:
    """Whether the hub answers, whatever it says, asked as its own library asks: same proxies, certificates, patience.

    That library itself tries each file six times over half a minute, and has no option for it.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # httpx's or requests', by the library's version
        if tries == 1:
            return False
        time.sleep(PAUSE)
        return reached(tries - 1)
    return True


@contextmanager
def offline() -> Iterator[None]:
    """In this block the libraries use what they downloaded before and ask nobody, as under HF_HUB_OFFLINE=1."""
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
