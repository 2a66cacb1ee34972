"""Settings of the agent: TOML into frozen models; an unknown key or a wrong value is one clear line.

Longer than other modules: all sections in one place are what a person looks up.
"""

import json
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from contract.ids import DeviceId
from contract.messages.transfer import INLINE_BYTES
from device_agent.errors import ConfigError


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """Resolve a relative path against the directory of the configuration file."""
    base = (info.context or {}).get("base")
    return Path(base) / path if base is not None else path


def _source_beside_the_file(source: str, info: ValidationInfo) -> str:
    """Resolve the source like a path if it is one."""
    if source == "-" or source.startswith("iface:"):
        return source
    return str(_beside_the_file(Path(source), info))


FilePath = Annotated[Path, Field(strict=False), AfterValidator(_beside_the_file)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DeviceConfig(_Section):
    """Who the device is.

    Attributes
    ----------
    id
        Device id, also the MQTT user name.
    board
        Board file; without it the device tree names the board and the generic budget holds.
    """

    id: DeviceId
    board: FilePath | None = None


class BrokerConfig(_Section):
    """Where the MQTT broker is.

    Attributes
    ----------
    host, port
        Address of the broker.
    username, password_file
        Credentials; the file holds the password alone.
    ca_file, cert_file, key_file
        TLS: authority of the broker, and the device's own certificate and key.
    allow_plaintext
        Allows MQTT without TLS to a host that is not this machine.
    inline_bytes
        A larger update is offered and pulled in chunks instead of sent in one piece.
    keepalive_s
        Seconds without traffic after which the broker takes the device for lost is 1.5 times this.
    """

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(default=1883, ge=1, le=65_535)
    username: str | None = Field(default=None, max_length=64)
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    allow_plaintext: bool = False
    inline_bytes: int = Field(default=INLINE_BYTES, ge=4_096, le=1_048_576)
    keepalive_s: int = Field(default=30, ge=5, le=3_600)

    @model_validator(mode="after")
    def _no_plain_text_over_the_network(self) -> "BrokerConfig":
        if self.ca_file is None and not self.allow_plaintext and not is_loopback(self.host):
            raise ValueError(
                f"MQTT to {self.host} would travel in plain text; set ca_file, or allow_plaintext = true in a lab"
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self


class CaptureConfig(_Section):
    """What is watched.

    Attributes
    ----------
    source
        A capture file, a FIFO, ``-`` or ``iface:<name>``.
    bpf
        Filter for interfaces.
    dissect_pps
        Application payloads that are read in a second of packet time, 0 = none; without it what the board can afford.
    """

    source: Annotated[str, AfterValidator(_source_beside_the_file)] = Field(min_length=1, max_length=4_096)
    bpf: str = Field(default="", max_length=4_096)
    dissect_pps: int | None = Field(default=None, ge=0, le=100_000)


class FlowsConfig(_Section):
    """Timeouts of the flow meter on the packets' clock, and when a flow is judged before it ends.

    Attributes
    ----------
    idle_s, active_s
        Seconds.
    early_pkts, early_s
        A flow is judged early with its packet of this number, or with one so many seconds after its first, whichever
        comes first; 0 = not for this reason. Off by default: see docs/flows.md.
    """

    idle_s: float = Field(default=15.0, gt=0.0, le=3_600.0)
    active_s: float = Field(default=60.0, gt=0.0, le=86_400.0)
    early_pkts: int = Field(default=0, ge=0, le=1_000_000)
    early_s: float = Field(default=0.0, ge=0.0, le=86_400.0)


class StoreConfig(_Section):
    """Directory for samples, models and messages that wait; made if it is missing."""

    dir: FilePath


class AlertsConfig(_Section):
    """The alert file: EVE JSON lines, rotated once to ``<path>.1`` at ``max_bytes``.

    Attributes
    ----------
    path
        The file; without it, ``eve.json`` in the store directory.
    suppress_s
        Packet time in which alerts of the same kind are counted instead of repeated.
    max_bytes
        Size at which the file is rotated.
    """

    path: FilePath | None = None
    suppress_s: float = Field(default=60.0, ge=0.0, le=86_400.0)
    max_bytes: int = Field(default=16_777_216, ge=65_536, le=2**40)


class LabelsConfig(_Section):
    """Where labels come from: marks of a test harness, and the seconds of traffic that count as benign."""

    accept_marks: bool = False
    baseline_s: float = Field(default=0.0, ge=0.0, le=31_536_000.0)


class DetectorConfig(_Section):
    """False alarms per hour that the threshold is calibrated to, for a whole device."""

    false_alarms_per_hour: float = Field(default=1.0, gt=0.0, le=3_600.0)


class TrustConfig(_Section):
    """Files with the Ed25519 public keys whose releases the device accepts; none = no release is accepted."""

    keys: Annotated[tuple[FilePath, ...], Field(strict=False, max_length=16)] = ()


class TrainingConfig(_Section):
    """Local training.

    Attributes
    ----------
    engine
        ``auto``: LiteRT if it works here, else NumPy.
    min_benign_rows
        Benign training rows before the device sends a signature or trains its own first model.
    block_s
        Length of the time blocks that split rows into training and validation, seconds of packet time.
    """

    engine: Literal["auto", "litert", "numpy"] = "auto"
    min_benign_rows: int = Field(default=200, ge=20, le=1_000_000)
    block_s: int = Field(default=10, ge=1, le=86_400)


MIN_NOISY_FLOWS = 2_000
"""With fewer flows, noise that hides one hides the device's kind as well."""


class PrivacyConfig(_Section):
    """What the traffic signature hides.

    Attributes
    ----------
    signature_noise
        Noise multiplier of Gaussian noise that hides single flows in the signature, 0 = none. With it a signature needs
        2,000 benign flows and tells nothing of attacks.
    """

    signature_noise: float = Field(default=0.0, ge=0.0, le=1_000.0)


class TelemetryConfig(_Section):
    """Seconds between two telemetry messages."""

    every_s: float = Field(default=2.0, ge=0.2, le=3_600.0)


class AgentConfig(_Section):
    """All settings. Without ``[broker]`` the device detects alone."""

    device: DeviceConfig
    broker: BrokerConfig | None = None
    capture: CaptureConfig
    flows: FlowsConfig = FlowsConfig()
    store: StoreConfig
    alerts: AlertsConfig = AlertsConfig()
    labels: LabelsConfig = LabelsConfig()
    detector: DetectorConfig = DetectorConfig()
    trust: TrustConfig = TrustConfig()
    training: TrainingConfig = TrainingConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @property
    def signature_rows(self) -> int:
        """Benign training rows that a signature needs."""
        return max(self.training.min_benign_rows, MIN_NOISY_FLOWS if self.privacy.signature_noise else 0)

    @property
    def alert_path(self) -> Path:
        """Where alerts are written."""
        return self.alerts.path or self.store.dir / "eve.json"


def is_loopback(host: str) -> bool:
    """Return whether a broker host is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(path: Path) -> AgentConfig:
    """Read a configuration file.

    Parameters
    ----------
    path
        TOML file; relative paths in it are meant from its directory.

    Raises
    ------
    ConfigError
        One line: file, key, and what is allowed there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return parse_config(data, path=path)


def parse_config(data: dict[str, object], *, path: Path) -> AgentConfig:
    """Turn decoded TOML into settings; ``path`` is for messages and relative paths.

    Raises
    ------
    ConfigError
        As in :func:`load_config`.
    """
    try:
        return AgentConfig.model_validate(data, context={"base": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_fault(error, AgentConfig)}") from None


def describe_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line on the first fault that pydantic found: the key, and what may stand there.

    An unknown key comes before its consequences: a misspelt key is often the missing one as well.
    """
    faults = error.errors(include_url=False)
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{_suggestion(model, tuple(str(part) for part in first['loc']))}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    shown = "" if isinstance(value, dict) else f" (found {value!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}" if message[:5] != "MQTT " else f"{key}: {message}"


def _suggestion(model: type[BaseModel], location: tuple[str, ...]) -> str:
    """Return the nearest valid key of the section, or all of them."""
    section: type[BaseModel] = model
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    names = list(section.model_fields)
    from difflib import get_close_matches  # noqa: PLC0415 - for one line of advice

    near = get_close_matches(location[-1], names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join((*location[:-1], near[0]))}?"
    return f"; valid here: {', '.join(names)}"


def render_config(config: AgentConfig) -> str:
    """Return the settings in effect as TOML; secrets are paths and stay so."""
    lines: list[str] = []
    for section, values in config.model_dump(mode="json").items():
        if values is None:
            continue
        lines += [f"[{section}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        lines += [""]
    return "\n".join(lines)


def read_secret(path: Path) -> str:
    """Return the content of a secret file without the line end.

    Raises
    ------
    ConfigError
        If the file cannot be read or is empty.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the secret cannot be read: {error}") from None
    if not secret:
        raise ConfigError(f"{path}: the secret file is empty")
    return secret
