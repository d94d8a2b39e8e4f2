"""Turn raw text into tokenized, checksummed shards: `python prepare.py --help`."""

from groundup.core.config.verb import verb
from groundup.verb.prepare import Prepare


@verb(Prepare)
def main(config: Prepare) -> None:
    """Check everything, then prepare."""
    config.check()
    config.run()


if __name__ == "__main__":
    main()
