"""Aggregation rules and server optimisers: pure functions with their state passed in and out."""

from gateway.aggregation.base import Measurements, Rule, RuleOutcome
from gateway.aggregation.clipped import ClippedMean
from gateway.aggregation.fedavg import FedAvg
from gateway.aggregation.server import FedAdam, ServerOptimiser, ServerState, Sum
from gateway.aggregation.weights import row_weights

__all__ = [
    "ClippedMean",
    "FedAdam",
    "FedAvg",
    "Measurements",
    "Rule",
    "RuleOutcome",
    "ServerOptimiser",
    "ServerState",
    "Sum",
    "row_weights",
]
