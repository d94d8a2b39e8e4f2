"""Text from networks: `sample` for answers, `stream` for answers as they come, `write` to go on from ids."""

from groundup.generation.sampling import Options, sample, stream, write

__all__ = ["Options", "sample", "stream", "write"]
