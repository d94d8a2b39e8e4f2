"""Typed components and their registry; Hydra stands in `compose` and `verb` alone."""

from groundup.core.config.schema import (
    MISSING,
    fingerprint,
    from_dict,
    group,
    groups,
    identity_of,
    option,
    schema,
    to_dict,
)

__all__ = ["MISSING", "fingerprint", "from_dict", "group", "groups", "identity_of", "option", "schema", "to_dict"]
