"""Configuration: a TOML file becomes frozen models; an unknown key is an error.

Relative paths are relative to the directory of the file. Every key has a default except ``store.dir`` and
``signing.dir``, so the smallest file names two directories.

Longer than most for its sections, each setting with its meaning and range.
"""

import re
import tomllib
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contract.messages.learning import DeltaEncoding
from contract.messages.transfer import INLINE_BYTES
from gateway.errors import ConfigError

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
RULE_NAMES = ("clipped", "fedavg", "trimmed", "median", "multi-krum")
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerConfig(_Section):
    """Where the broker is.

    Attributes
    ----------
    host, port
        Address of the broker.
    client_id
        MQTT client id; the broker keeps the session of this id while the gateway is away.
    username, password_file
        Credentials; the file holds the password on its first line.
    ca_file, cert_file, key_file
        TLS: authority of the broker, and the gateway's own certificate and key.
    allow_plaintext
        Talk to a host other than this machine without encryption.
    protocol
        ``auto`` tries MQTT 5 and falls back to 3.1.1 when the broker refuses it.
    keepalive_s
        Seconds of silence after which either side pings.
    inline_bytes
        A larger release is offered and pulled in chunks instead of sent in one piece.
    max_packet_bytes
        Largest packet the broker takes; larger ones are refused before they are sent.
    session_expiry_s
        How long the broker keeps the session (MQTT 5).
    """

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=1883, ge=1, le=65_535)
    client_id: str = Field(default="kinwatch-gateway", min_length=1, max_length=64)
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    allow_plaintext: bool = False
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: int = Field(default=60, ge=5, le=3_600)
    inline_bytes: int = Field(default=INLINE_BYTES, ge=4_096, le=1_048_576)
    max_packet_bytes: int = Field(default=262_144, ge=16_384, le=268_435_455)
    session_expiry_s: int = Field(default=86_400, ge=0, le=4_294_967_294)

    @model_validator(mode="after")
    def _no_plaintext_over_a_network(self) -> "BrokerConfig":
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if not (self.ca_file or self.allow_plaintext or is_loopback(self.host)):
            raise ValueError(
                f"host {self.host!r} is not this machine and the connection is not encrypted; "
                "set ca_file, or set allow_plaintext = true to accept that"
            )
        return self


class StoreConfig(_Section):
    """Where the state lives: ``dir`` holds ``gateway.sqlite3``."""

    dir: Path


class SigningConfig(_Section):
    """Where the release keys live: made at the first start, readable by the gateway alone."""

    dir: Path


class PkiConfig(_Section):
    """Where the certificate authority lives, if this gateway has one."""

    dir: Path = Path("pki")


class ScreeningConfig(_Section):
    """How much one device may say, and what happens to one that talks nonsense.

    Attributes
    ----------
    messages_per_s, burst_messages
        Rate at which messages of one device are taken in the long run, and how many at once.
    bytes_per_s, burst_bytes
        The same for bytes; a round's update must fit into the burst.
    strikes
        Refused messages within a minute after which a device is quarantined.
    quarantine_s
        How long nothing of a quarantined device is looked at; doubled each time, up to a day.
    """

    messages_per_s: Positive = 50.0
    burst_messages: int = Field(default=500, ge=1)
    bytes_per_s: Positive = 2_097_152.0
    burst_bytes: int = Field(default=67_108_864, ge=65_536)
    strikes: int = Field(default=20, ge=1)
    quarantine_s: float = Field(default=300.0, gt=0.0, le=86_400.0)


class DevicesConfig(_Section):
    """When a device counts as gone: seconds without a sign of life, by the gateway's monotonic clock."""

    offline_after_s: Positive = 90.0


class RoundsConfig(_Section):
    """When rounds open and what devices do in them.

    Attributes
    ----------
    max_rounds
        Rounds in all, expired ones included; 0 = no end.
    warmup_rounds
        Rounds that train the fallback alone, before families are looked for.
    interval_s
        Pause between the end of a round and the next.
    deadline_s
        Longest duration of a round.
    min_devices
        Devices that must be ready before a round opens.
    min_rows
        Training rows a device must report to be invited.
    quorum
        Fraction of the invited whose updates the fallback needs at the deadline.
    local_epochs, learning_rate, proximal_mu, recon_weight
        Settings of the local training.
    delta_encoding
        Form of the updates: ``float32``, or ``q8``, a quarter of the bytes for slow links.
    mode
        ``robust``: single updates are seen and screened; ``private``: devices shorten their updates and add noise, and
        families are found by traffic alone.
    clip_norm, noise_multiplier
        Private mode: longest update (Euclidean), and standard deviation of the noise in units of it.
    delta
        Private mode: the probability that the stated epsilon allows to fail.
    """

    max_rounds: int = Field(default=0, ge=0, le=999_999)
    warmup_rounds: int = Field(default=5, ge=0, le=999_999)
    interval_s: float = Field(default=600.0, ge=0.0, le=604_800.0)
    deadline_s: float = Field(default=300.0, gt=0.0, le=86_400.0)
    min_devices: int = Field(default=3, ge=1, le=100_000)
    min_rows: int = Field(default=200, ge=1)
    quorum: Share = 0.5
    local_epochs: int = Field(default=4, ge=1, le=100)
    learning_rate: float = Field(default=0.008, gt=0.0, le=1.0)
    proximal_mu: float = Field(default=0.1, ge=0.0, le=100.0)
    recon_weight: float = Field(default=0.5, ge=0.0, le=100.0)
    delta_encoding: DeltaEncoding = "float32"
    mode: Literal["robust", "private"] = "robust"
    clip_norm: float = Field(default=1.0, gt=0.0, le=1e6)
    noise_multiplier: float = Field(default=1.0, gt=0.0, le=1_000.0)
    delta: float = Field(default=1e-5, gt=0.0, lt=1.0)

    @property
    def private(self) -> bool:
        """Whether devices protect their updates themselves."""
        return self.mode == "private"


class AggregationConfig(_Section):
    """How updates become a model.

    Attributes
    ----------
    rule
        ``clipped``: cosine filter and median-norm clip; ``fedavg``: plain weighted mean; ``trimmed``, ``median``,
        ``multi-krum``; or ``plugin:<name>``, a rule that an installed package brings.
    server, server_lr, betas, tau
        Server optimiser and its settings; ``none`` adds the mean itself; ``momentum`` uses the first of ``betas``.
    common_encoder
        Whether the encoders of all models move together, by the updates of all devices, so that experts differ in
        their heads alone.
    weighting
        ``sqrt-rows``: square root of the rows, capped at three times the median; ``equal``.
    norm_bound
        An update longer than this many times its base (at least 1) is refused.
    expert_min_updates
        Fewer updates than this hold an expert for the round.
    """

    rule: str = "clipped"
    server: Literal["fedadam", "fedyogi", "momentum", "none"] = "none"
    server_lr: Positive = 0.03
    betas: tuple[Share, Share] = (0.9, 0.99)
    tau: Positive = 0.001
    common_encoder: bool = True
    weighting: Literal["sqrt-rows", "equal"] = "sqrt-rows"
    norm_bound: Positive = 10.0
    expert_min_updates: int = Field(default=3, ge=1)

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        if rule not in RULE_NAMES and not re.fullmatch(r"plugin:[A-Za-z0-9_.-]{1,64}", rule):
            raise ValueError(f"no rule {rule!r}; take {', '.join(RULE_NAMES)} or plugin:<name>")
        return rule


class FamiliesConfig(_Section):
    """When devices form families.

    Attributes
    ----------
    min_size
        Smallest family; grows to 2 % of the fleet, at most 20.
    contrast
        Least variance between devices, in units of what sampling alone gives.
    gate
        Least silhouette times coverage of a grouping that is believed.
    stability
        Least mean adjusted Rand index over subsamples.
    null_level
        Greatest share of structureless fleets that would look as grouped as this one.
    recluster_every
        Rounds after which the grouping is looked at again; families are replaced only if a fifth of the devices changed
        their traffic or fit none, if the separation fell by a quarter, or if there is structure where there was none.
    check_every
        Rounds between two questions to members about the experts of near families, 0 = none.
    by_attack, attack_gate
        Whether a family, of eight devices or more, may be split by what attacks look like to its members; least
        silhouette times coverage of such a split.
    min_conflict
        Families that disagree less than this on what attacks look like share one model; 0 = every family has its own.
    """

    min_size: int = Field(default=3, ge=3, le=1_000)
    contrast: Positive = 8.0
    gate: Share = 0.15
    stability: Share = 0.8
    null_level: Share = 0.34
    recluster_every: int = Field(default=10, ge=1)
    check_every: int = Field(default=4, ge=0)
    by_attack: bool = True
    attack_gate: Share = 0.3
    min_conflict: Share = 0.0


class GatewayConfig(_Section):
    """The whole configuration; ``seed`` is behind initial weights, round seeds and clustering."""

    seed: int = Field(default=0, ge=0, le=2**31)
    broker: BrokerConfig = BrokerConfig()
    store: StoreConfig
    signing: SigningConfig
    pki: PkiConfig = PkiConfig()
    screening: ScreeningConfig = ScreeningConfig()
    devices: DevicesConfig = DevicesConfig()
    rounds: RoundsConfig = RoundsConfig()
    aggregation: AggregationConfig = AggregationConfig()
    families: FamiliesConfig = FamiliesConfig()


def load(path: Path) -> GatewayConfig:
    """Read a configuration file.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no TOML, or holds a key or value that is off; one line names the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        config = GatewayConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None
    return _with_absolute_paths(config, path.parent.absolute())


def render(config: GatewayConfig) -> str:
    """Return the effective configuration as TOML; it reads back to the same configuration."""
    lines: list[str] = []
    tables: list[str] = []
    for name, value in config.model_dump(mode="json").items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {_toml(value)}")
            continue
        tables += ["", f"[{name}]"]
        tables += [f"{key} = {_toml(item)}" for key, item in value.items() if item is not None]
    return "\n".join(lines + tables) + "\n"


def read_password(broker: BrokerConfig) -> str | None:
    """Return the first line of the password file, or ``None`` without one.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    if broker.password_file is None:
        return None
    try:
        return broker.password_file.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"broker.password_file {broker.password_file}: cannot be read: {error}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *parents, key = [str(part) for part in first["loc"]]
        near = get_close_matches(key, _known_keys(parents), n=1, cutoff=0.6)
        return f"unknown key {where}" + (f"; did you mean {'.'.join([*parents, near[0]])}?" if near else "")
    if first["type"] == "missing":
        return f"key {where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _known_keys(parents: list[str]) -> list[str]:
    model: type[BaseModel] = GatewayConfig
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _with_absolute_paths(config: GatewayConfig, base: Path) -> GatewayConfig:
    names = ("password_file", "ca_file", "cert_file", "key_file")
    files = {name: base / path for name in names if (path := getattr(config.broker, name)) is not None}
    broker = config.broker.model_copy(update=files)
    return config.model_copy(
        update={
            "broker": broker,
            "store": StoreConfig(dir=base / config.store.dir),
            "signing": SigningConfig(dir=base / config.signing.dir),
            "pki": PkiConfig(dir=base / config.pki.dir),
        }
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
