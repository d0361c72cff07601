"""The paper's tables, filled with this project's figures: ``python -m benchmarks.tables``."""
