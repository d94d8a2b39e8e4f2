"""What watches a run and leaves its mathematics alone: progress, speed, samples, averaged weights, curves."""
