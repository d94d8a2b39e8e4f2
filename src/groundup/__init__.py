"""Train a language model from the ground up."""
