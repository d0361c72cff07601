"""docs/reproduction.md, filled from measured figures: ``python -m benchmarks.reproduction``."""
