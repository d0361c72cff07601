"""CT-CLIP: all MLP layers of the vision tower treated as the connector is.

Source: Xiong et al., AAAI 2025, Table 4. An adapter is then a copy of every MLP that the image's
features pass through, and of the connector; wherever one of them stood, the adapters' outputs are
put together as a connector's are (Eq. 1-2 in stage 1, Eq. 5-6 in stage 2, with a router of its own
at each place). The paper does not say how the places' losses add up: their mean is taken, so that
λ0 to λ2 mean the same as for the connector alone.

What does not change then is what the first block is given, and that is what is computed once for
each image: patches and positions, before any MLP.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pilot_secure.models.base import base_connector, llava_of
from pilot_secure.models.connectors import Connector, ConnectorOutput


class TowerPath:
    """From a tower's inputs [B, 1 + N, C] to image tokens [B, N, D], by a connector's adapters."""

    def __init__(self, model: nn.Module) -> None:
        llava = llava_of(model)
        layer = llava.config.vision_feature_layer
        if not isinstance(layer, int):
            raise TypeError(f"vision_feature_layer is {layer}: expected one layer for CT-CLIP")
        blocks = llava.model.vision_tower.encoder.layers
        depth = layer if layer >= 0 else len(blocks) + 1 + layer
        self._blocks = list(blocks[:depth])
        self._without_class = llava.config.vision_feature_select_strategy == "default"
        self.places = nn.ModuleList([*(block.mlp for block in self._blocks), base_connector(model)])
        """What an adapter is a copy of, in the order that an image passes."""

    def image_tokens(self, inputs: Tensor) -> int:
        """Return N for inputs [B, 1 + N, C]."""
        return inputs.shape[1] - self._without_class

    def __call__(
        self, connector: Connector, inputs: Tensor, weights: Mapping[str, float]
    ) -> ConnectorOutput:
        """Run the blocks with the connector's adapters in place of their MLPs."""
        losses: dict[str, list[Tensor]] = {}

        def at(place: int, states: Tensor) -> Tensor:
            output = connector.at(place, states, weights)
            for name, loss in output.losses.items():
                losses.setdefault(name, []).append(loss)
            return output.image_tokens

        states = inputs
        for place, block in enumerate(self._blocks):
            normed = block.layer_norm1(states)
            states = states + block.self_attn(hidden_states=normed, attention_mask=None)[0]
            states = states + at(place, block.layer_norm2(states))
        tokens = at(len(self._blocks), states[:, 1:] if self._without_class else states)
        return ConnectorOutput(tokens, {k: torch.stack(v).mean(0) for k, v in losses.items()})


class ConnectorPath:
    """From a tower's features [B, N, C] to image tokens [B, N, D]: the connector alone."""

    def __init__(self, model: nn.Module) -> None:
        self.places = base_connector(model)

    def image_tokens(self, features: Tensor) -> int:
        """Return N for features [B, N, C]."""
        return features.shape[1]

    def __call__(
        self, connector: Connector, features: Tensor, weights: Mapping[str, float]
    ) -> ConnectorOutput:
        """Run the connector."""
        return connector.at(0, features, weights)
