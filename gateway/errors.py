"""Errors of the gateway, one tree.

::

    GatewayError          stops the program with its exit code; the message is one line for a person
    ├── ConfigError       a configuration file or value is wrong (CONFIG)
    ├── StoreError        the state directory cannot be read or written (STORE)
    ├── SigningError      a key file is missing, damaged or readable by others (MODEL)
    ├── PkiError         the certificate authority cannot do what was asked for (CONFIG)
    ├── VerdictError      there is no alert like the one a verdict is about, or no class like its label (USAGE)
    └── ModelSpecError    the store's models have another spec than this program (SCHEMA_MISMATCH)

What a peer does wrong is never raised: it is a refusal with a reason that is counted.
"""

from contract.exit_codes import ExitCode


class GatewayError(Exception):
    """Base of the errors that stop the program."""

    exit_code = ExitCode.INTERNAL


class ConfigError(GatewayError):
    """A configuration file or value is wrong; the message names file and key."""

    exit_code = ExitCode.CONFIG


class StoreError(GatewayError):
    """The state directory cannot be read or written."""

    exit_code = ExitCode.STORE


class SigningError(GatewayError):
    """A key file is missing, damaged or readable by others."""

    exit_code = ExitCode.MODEL


class PkiError(GatewayError):
    """The certificate authority cannot do what was asked for; the message says why."""

    exit_code = ExitCode.CONFIG


class VerdictError(GatewayError):
    """There is no alert like the one a verdict is about, or no class like its label."""

    exit_code = ExitCode.USAGE


class ModelSpecError(GatewayError):
    """The store's models have another spec than this program."""

    exit_code = ExitCode.SCHEMA_MISMATCH
