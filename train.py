"""Train a model on prepared shards: `python train.py --help`."""

from groundup.core.config.verb import verb
from groundup.verb.train import Train


@verb(Train)
def main(config: Train) -> None:
    """Check everything, then train."""
    config.check()
    config.run()


if __name__ == "__main__":
    main()
