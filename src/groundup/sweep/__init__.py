"""A search over options: trials drawn by Optuna, each a run of its own, that goes on wherever it was stopped."""
