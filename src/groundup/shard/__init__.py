"""Token shards and the order in which they are read; numpy and integers, and no torch."""
