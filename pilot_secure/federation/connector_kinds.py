"""Connectors as they are saved: which kind one is, and how to build one of a kind."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from pilot_secure.adapter_files import ConnectorDescription
from pilot_secure.errors import RunFolderError
from pilot_secure.models import MixtureConnector, SingleConnector, TwoAdapterConnector, new_adapter

BASE = "base"


def describe_connector(connector: nn.Module | None) -> ConnectorDescription:
    """Return how to build a client's connector again; None is the base model's own."""
    arguments: dict[str, Any] = {}
    if isinstance(connector, MixtureConnector):
        arguments["other_tasks"] = list(connector.other_tasks)
        arguments["cross_task_adapter"] = bool(connector.cross_task_adapters)
    kind = BASE if connector is None else type(connector).__name__
    return ConnectorDescription(kind=kind, arguments=arguments)


def build_connector(description: ConnectorDescription, base: nn.Module) -> nn.Module:
    """Return an untrained connector of a description, for its tensors to be loaded into.

    Raises: RunFolderError for a kind that does not exist.
    """
    if description.kind == BASE:
        return copy.deepcopy(base)
    if description.kind == SingleConnector.__name__:
        return SingleConnector(base)
    if description.kind == TwoAdapterConnector.__name__:
        return TwoAdapterConnector(base)
    if description.kind == MixtureConnector.__name__:
        tasks: Any = description.arguments.get("other_tasks") or []
        crossing = description.arguments.get("cross_task_adapter", True)
        adapter = new_adapter(base)
        others = dict.fromkeys(tasks, adapter)
        return MixtureConnector(adapter, adapter, others, cross_task_adapter=bool(crossing))
    raise RunFolderError(f"connector.json: unknown connector {description.kind!r}.")
