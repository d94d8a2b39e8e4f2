"""Documents: where they come from (`config.py`), what is done to them (`chain.py`), which are held out (`split.py`)."""
