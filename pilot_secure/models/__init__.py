"""The model side of Pilot: LLaVA, its connectors, text adapter and losses."""

from pilot_secure.models.answers import answer_losses, generate_answers, prompt_states
from pilot_secure.models.base import (
    SHIPPED_CHECKPOINT,
    SHIPPED_NAME,
    CheckpointError,
    base_connector,
    checkpoint_path,
    connector_in_place,
    image_outputs,
    llava_of,
    load_base,
    tower_inputs,
    vision_features,
)
from pilot_secure.models.connectors import (
    Connector,
    ConnectorOutput,
    MixtureConnector,
    SingleConnector,
    TwoAdapterConnector,
    new_adapter,
)
from pilot_secure.models.ct_clip import ConnectorPath, TowerPath
from pilot_secure.models.features import FeatureCache, ImageFeatures, pixel_values
from pilot_secure.models.losses import (
    difference_loss,
    load_balancing_loss,
    router_z_loss,
    weighted_sum,
)
from pilot_secure.models.text_adapter import (
    PERSONAL,
    SHARED,
    attach_text_adapter,
    load_text_adapter_state,
    text_adapter_parameters,
    text_adapter_state,
    use_personal_adapter,
    weighted_adapters,
)

__all__ = [
    "PERSONAL",
    "SHARED",
    "SHIPPED_CHECKPOINT",
    "SHIPPED_NAME",
    "CheckpointError",
    "Connector",
    "ConnectorOutput",
    "ConnectorPath",
    "FeatureCache",
    "ImageFeatures",
    "MixtureConnector",
    "SingleConnector",
    "TowerPath",
    "TwoAdapterConnector",
    "answer_losses",
    "attach_text_adapter",
    "base_connector",
    "checkpoint_path",
    "connector_in_place",
    "difference_loss",
    "generate_answers",
    "image_outputs",
    "llava_of",
    "load_balancing_loss",
    "load_base",
    "load_text_adapter_state",
    "new_adapter",
    "pixel_values",
    "prompt_states",
    "router_z_loss",
    "text_adapter_parameters",
    "text_adapter_state",
    "tower_inputs",
    "use_personal_adapter",
    "vision_features",
    "weighted_adapters",
    "weighted_sum",
]
