"""Errors of the agent that end a program with a numbered exit code, one tree.

::

    AgentError          one line for a person, and the exit code
    ├── ConfigError     a configuration file, key or value is wrong
    ├── StoreError      the state directory cannot be used
    ├── TrustError      a file with a public key is wrong
    ├── EnrolError      the device cannot get or renew its certificate
    └── ModelError      the model or its engine cannot be used
"""

from typing import ClassVar

from contract.exit_codes import ExitCode


class AgentError(Exception):
    """Base of the errors that a person must act on; the text is one line that names culprit and fix."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL


class ConfigError(AgentError):
    """A configuration file, key or value that is wrong."""

    exit_code = ExitCode.CONFIG


class StoreError(AgentError):
    """A state directory that cannot be created, read or written at start."""

    exit_code = ExitCode.STORE


class TrustError(AgentError):
    """A file that should hold an Ed25519 public key and does not."""

    exit_code = ExitCode.CONFIG


class EnrolError(AgentError):
    """A certificate that cannot be had or renewed."""

    exit_code = ExitCode.CONFIG


class ModelError(AgentError):
    """A model or an engine that cannot be used."""

    exit_code = ExitCode.MODEL
