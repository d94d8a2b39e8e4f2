"""Three components of one's own: importing this registers them, and imports no torch."""

from my_parts import config

__all__ = ["config"]
