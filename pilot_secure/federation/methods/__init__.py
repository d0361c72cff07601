"""The federated methods: what each trains, sends and combines."""

from pilot_secure.federation.methods.base import Method
from pilot_secure.federation.methods.fedadam import FedAdam
from pilot_secure.federation.methods.fedavg import FedAvg
from pilot_secure.federation.methods.fedprox import FedProx
from pilot_secure.federation.methods.local import Local
from pilot_secure.federation.methods.pilot import Pilot
from pilot_secure.federation.methods.shepherd import Shepherd
from pilot_secure.federation.methods.task_fedavg import TaskFedAvg

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Pilot, Local, FedAvg, TaskFedAvg, FedProx, FedAdam, Shepherd)
}

__all__ = [
    "METHODS",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "Local",
    "Method",
    "Pilot",
    "Shepherd",
    "TaskFedAvg",
]
