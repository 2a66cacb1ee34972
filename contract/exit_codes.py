"""Numbered exit codes of all Kinwatch programs; a code is never reused for another meaning."""

from enum import IntEnum, unique


@unique
class ExitCode(IntEnum):
    """Exit codes, grouped by tens: 1x start-up, 2x input, 3x network, 4x model, 7x ours."""

    OK = 0
    USAGE = 2
    CONFIG = 10
    STORE = 11
    PERMISSION = 12
    CAPTURE_INPUT = 20
    LABELS_INPUT = 21
    INTERLOCK = 22
    PORT_IN_USE = 30
    BROKER_UNREACHABLE = 31
    MODEL = 40
    SCHEMA_MISMATCH = 41
    ACCEPTANCE = 50
    INTERNAL = 70
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.USAGE: "the command line is off; --help shows how",
    ExitCode.CONFIG: "a configuration file or value is wrong; the message names the key",
    ExitCode.STORE: "the state directory cannot be read or written",
    ExitCode.PERMISSION: "no permission, usually to sniff or send raw packets (CAP_NET_RAW)",
    ExitCode.CAPTURE_INPUT: "a capture is missing, truncated, not a capture or of an unknown link type",
    ExitCode.LABELS_INPUT: "a label sidecar is missing or wrong",
    ExitCode.INTERLOCK: "a safety interlock refused to send traffic",
    ExitCode.PORT_IN_USE: "a port that must be opened is in use",
    ExitCode.BROKER_UNREACHABLE: "the MQTT broker does not answer",
    ExitCode.MODEL: "a model artifact or release failed its checks",
    ExitCode.SCHEMA_MISMATCH: "feature schema, taxonomy or model spec differ between the two sides",
    ExitCode.ACCEPTANCE: "a run finished but missed what it asserts",
    ExitCode.INTERNAL: "a fault of ours; the log has the trace",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}
