"""Aggregation rules and server optimisers: pure functions with their state passed in and out."""

from gateway.aggregation.base import Measurements, Rule, RuleOutcome
from gateway.aggregation.clipped import ClippedMean
from gateway.aggregation.fedavg import FedAvg
from gateway.aggregation.robust import CoordinateMedian, MultiKrum, TrimmedMean
from gateway.aggregation.server import FedAdam, Momentum, ServerOptimiser, ServerState, Sum
from gateway.aggregation.weights import row_weights
from gateway.aggregation.yogi import FedYogi

__all__ = [
    "ClippedMean",
    "CoordinateMedian",
    "FedAdam",
    "FedAvg",
    "FedYogi",
    "Measurements",
    "Momentum",
    "MultiKrum",
    "Rule",
    "RuleOutcome",
    "ServerOptimiser",
    "ServerState",
    "Sum",
    "TrimmedMean",
    "row_weights",
]
