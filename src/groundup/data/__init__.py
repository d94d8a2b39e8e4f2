"""Steps of training and evaluation, made of shards."""
