"""Measure a trained model, or let it write: `python evaluate.py --help`."""

from groundup.core.config.verb import verb
from groundup.verb.evaluate import Evaluate


@verb(Evaluate)
def main(config: Evaluate) -> None:
    """Check everything, then measure."""
    config.check()
    config.do()


if __name__ == "__main__":
    main()
