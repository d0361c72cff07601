"""The metrics of the paper: exact-match accuracies, CIDEr, and grounding accuracy at IoU 0.5."""

from pilot_secure.metrics.score import METRICS, MetricScore, can_score, score

__all__ = ["METRICS", "MetricScore", "can_score", "score"]
