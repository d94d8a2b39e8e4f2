"""Tokenizers: one protocol (`protocol.py`), three kinds (`config.py`), and `load.py` to read one from its folder."""
