"""What a board can afford: facts and budgets from its TOML file, with a generic default."""

import platform
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_agent.config import describe_fault
from device_agent.errors import ConfigError

DEVICE_TREE_MODEL = Path("/proc/device-tree/model")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Facts(_Section):
    """What the board is; for people and reports only."""

    soc: str = "unknown"
    arch: str = "unknown"
    cores: int = Field(default=1, ge=1, le=4_096)
    ram_mb: int = Field(default=0, ge=0)
    page_size_kib: int = Field(default=4, ge=4, le=64)
    nic: str = "unknown"
    gotchas: tuple[str, ...] = Field(default=(), strict=False)


class Budgets(_Section):
    """What the agent may use.

    Attributes
    ----------
    trainer_memory_mb
        Memory of the trainer process beside the libraries it maps.
    trainer_seconds
        Wall time of one training job, after which it hands back what it has.
    trainer_threads
        Threads of its mathematics; results are the same on every run for one thread only.
    buffer_rows
        Rows in the sample buffer.
    flow_table_rows
        Open flows in the meter.
    capture_queue_packets
        Packets that may wait between capture and meter.
    dissect_pps
        Application payloads that may be read in a second of packet time; 0 = none.
    engine
        Which engine this board shall use when the configuration says ``auto``.
    """

    trainer_memory_mb: int = Field(default=128, ge=16, le=65_536)
    trainer_seconds: float = Field(default=60.0, gt=0.0, le=3_600.0)
    trainer_threads: int = Field(default=1, ge=1, le=64)
    buffer_rows: int = Field(default=8_192, ge=64, le=4_194_304)
    flow_table_rows: int = Field(default=16_384, ge=64, le=16_777_216)
    capture_queue_packets: int = Field(default=16_384, ge=64, le=16_777_216)
    dissect_pps: int = Field(default=100, ge=0, le=100_000)
    engine: Literal["auto", "litert", "numpy"] = "auto"


class Board(_Section):
    """A board: its name, facts and budget."""

    name: str = Field(min_length=1, max_length=80)
    facts: Facts = Facts()
    budget: Budgets = Budgets()


def load_board(path: Path) -> Board:
    """Read a board file.

    Raises
    ------
    ConfigError
        One line: file, key, and what is allowed there.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the board file cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return Board.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_fault(error, Board)}") from None


def detect_board(model_file: Path = DEVICE_TREE_MODEL) -> Board:
    """Return the board that the device tree names, with the generic budget.

    The name is a fact; a budget is a decision and comes from a board file only.
    """
    try:
        name = model_file.read_bytes().rstrip(b"\x00\n").decode("utf-8", "replace").strip()
    except OSError:
        name = ""
    return Board(name=(name or f"generic {platform.machine()}")[:80], facts=Facts(arch=platform.machine()))
