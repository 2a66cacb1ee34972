"""Checks of a device: engine, store, capture, keys, broker. Each gives one line, none changes anything that matters."""

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contract.exit_codes import ExitCode
from contract.model import DEFAULT_SPEC
from device_agent.boards import detect_board, load_board
from device_agent.config import AgentConfig
from device_agent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of one check.

    Attributes
    ----------
    name
        What was checked.
    ok
        Whether it is fine.
    detail
        What was found, or what to do.
    exit_code
        Of a failure.
    """

    name: str
    ok: bool
    detail: str
    exit_code: ExitCode = ExitCode.OK


def run_checks(config: AgentConfig) -> list[Check]:
    """Run all checks, each on its own: one failure does not hide another."""
    checks: tuple[tuple[str, Callable[[AgentConfig], str], ExitCode], ...] = (
        ("board", _board, ExitCode.CONFIG),
        ("engine", _engine, ExitCode.MODEL),
        ("store", _store, ExitCode.STORE),
        ("capture", _capture, ExitCode.CAPTURE_INPUT),
        ("release keys", _keys, ExitCode.CONFIG),
        ("broker", _broker, ExitCode.BROKER_UNREACHABLE),
    )
    results = []
    for name, check, code in checks:
        try:
            results.append(Check(name, ok=True, detail=check(config)))
        except AgentError as error:
            results.append(Check(name, ok=False, detail=str(error), exit_code=error.exit_code))
        except (OSError, ValueError, RuntimeError) as error:
            results.append(Check(name, ok=False, detail=str(error), exit_code=code))
    return results


def _board(config: AgentConfig) -> str:
    board = load_board(config.device.board) if config.device.board else detect_board()
    return f"{board.name}; {board.budget.buffer_rows} rows, {board.budget.trainer_memory_mb} MB for training"


def _engine(config: AgentConfig) -> str:
    from device_agent.inference.opening import self_test  # noqa: PLC0415  # loads the runtime
    from device_agent.inference.select import load_engine  # noqa: PLC0415

    loaded = load_engine(DEFAULT_SPEC, config.training.engine)
    self_test(loaded.engine)
    return f"{loaded.engine.name} agrees with NumPy; {loaded.reason}"


def _store(config: AgentConfig) -> str:
    from device_agent.store.database import Database  # noqa: PLC0415

    path = config.store.dir / "self-test.db"
    try:
        database = Database(path, "CREATE TABLE IF NOT EXISTS probe (a INTEGER);")
        written = database.write("INSERT INTO probe VALUES (?)", [(1,)])
        database.close()
    finally:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    if not written:
        raise OSError(f"{config.store.dir}: writing failed: {', '.join(database.failures)}")
    return f"{config.store.dir} is writable"


def _capture(config: AgentConfig) -> str:
    from device_agent.capture.source import CaptureSettings, open_source  # noqa: PLC0415  # loads Scapy

    source = open_source(config.capture.source, CaptureSettings(bpf=config.capture.bpf))
    source.close()
    return f"{config.capture.source} opens"


def _keys(config: AgentConfig) -> str:
    from device_agent.trust import load_keyring  # noqa: PLC0415

    keys = load_keyring(config.trust.keys).keys
    return ", ".join(keys) if keys else "none: releases are refused, the device works with its own model"


def _broker(config: AgentConfig) -> str:
    broker = config.broker
    if broker is None:
        return "none: the device works alone"
    try:
        with socket.create_connection((broker.host, broker.port), timeout=_TIMEOUT_S):
            return f"{broker.host}:{broker.port} answers"
    except OSError as error:
        raise OSError(f"{broker.host}:{broker.port} does not answer: {error}") from None
