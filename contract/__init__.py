"""What device agents and the gateway must agree on: ids, topics, messages, features, weights.

The package does no I/O, reads no clock and holds no state. It depends on NumPy, pydantic and cbor2 only.
"""

CONTRACT_MAJOR = 1
CONTRACT_VERSION = "1.0"
