"""Federated multimodal instruction tuning with secure aggregation."""

__version__ = "0.1.0"
