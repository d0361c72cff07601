"""The federated methods: what each trains, sends and combines."""

from pilot_secure.federation.methods.base import Method
from pilot_secure.federation.methods.centralized import Centralized
from pilot_secure.federation.methods.fedadam import FedAdam
from pilot_secure.federation.methods.fedavg import FedAvg
from pilot_secure.federation.methods.feddpa import FedDPA
from pilot_secure.federation.methods.fedprox import FedProx
from pilot_secure.federation.methods.local import Local
from pilot_secure.federation.methods.pilot import Pilot
from pilot_secure.federation.methods.shepherd import Shepherd
from pilot_secure.federation.methods.task_fedavg import TaskFedAvg

_ALL = (Pilot, Local, Centralized, FedAvg, TaskFedAvg, FedProx, FedAdam, Shepherd, FedDPA)
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}

__all__ = [
    "METHODS",
    "Centralized",
    "FedAdam",
    "FedAvg",
    "FedDPA",
    "FedProx",
    "Local",
    "Method",
    "Pilot",
    "Shepherd",
    "TaskFedAvg",
]
