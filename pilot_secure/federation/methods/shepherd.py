"""Shepherd: only the text adapter is averaged; the connector stays with its client.

Source: Zhang et al., "Towards Building the Federated GPT", ICASSP 2024: FedAvg of LoRA, weighted
by n_k. The paper has no images; that the trained connector stays local is the reading here.
"""

from __future__ import annotations

from pilot_secure.federation.methods.fedavg import TEXT, FedAvg


class Shepherd(FedAvg):
    """As FedAvg, of the text adapter alone."""

    name = "shepherd"
    vectors = (TEXT,)
