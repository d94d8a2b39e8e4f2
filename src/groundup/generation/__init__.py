"""Text from networks: `sample` for answers, `stream` for answers as they come."""

from groundup.generation.sampling import Options, sample, stream

__all__ = ["Options", "sample", "stream"]
