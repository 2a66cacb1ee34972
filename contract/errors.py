"""Errors of the contract, one tree.

::

    ContractError            somebody broke the contract; ``reason`` is a short slug that is counted
    ├── DecodeError          bytes are not the message they claim to be
    ├── TopicError           a topic string is not one of ours
    ├── SchemaMismatchError  the feature schema, taxonomy or model spec differs from ours
    └── WeightsError         a weight vector has the wrong length, layout or values
"""


class ContractError(ValueError):
    """Base of all contract errors.

    Parameters
    ----------
    message
        One line for a person: what is wrong and with what.
    reason
        Short slug (``[a-z0-9-]+``) under which the refusal is counted.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecodeError(ContractError):
    """Bytes that do not decode to the expected message."""


class TopicError(ContractError):
    """A topic string outside the topic table."""


class SchemaMismatchError(ContractError):
    """A feature schema, taxonomy or model spec that differs from ours."""


class WeightsError(ContractError):
    """A weight vector of the wrong length, layout or with values that are not finite."""
