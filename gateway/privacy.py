"""The private mode: what its updates look like here, and what devices have spent. No I/O.

A device shortens its update to ``clip_norm`` and adds Gaussian noise before it leaves; nobody but the device has to be
trusted. Exchanging all of a device's rows for others moves its update by at most ``2 * clip_norm``, so the mechanism's
noise multiplier against that is half of the configured one. The epsilon holds for a whole device's data against
whoever reads its updates, the gateway included. It is honest and large: noise that hides one device from the gateway
has to be as long as the update in every one of thousands of directions.
"""

import math

from gateway.config import AggregationConfig, GatewayConfig, RoundsConfig
from gateway.errors import ConfigError

_SLACK = 1.5


def rule_for_mode(config: GatewayConfig) -> AggregationConfig:
    """Return how updates are aggregated: in private mode by the plain mean, since noise hides what a filter would see.

    Rows are not told there, so all devices weigh the same.
    """
    if not config.rounds.private:
        return config.aggregation
    return config.aggregation.model_copy(update={"rule": "fedavg", "weighting": "equal"})


def private_norm(rounds: RoundsConfig, n_parameters: int) -> float:
    """Return the longest update that private mode explains: the clip norm and its noise, with slack."""
    noise = rounds.noise_multiplier * math.sqrt(n_parameters)
    return rounds.clip_norm * (1.0 + _SLACK * noise)


def update_epsilon(noise_multiplier: float, updates: int, delta: float) -> float:
    """Return the epsilon that a device has spent on updates.

    Parameters
    ----------
    noise_multiplier
        As configured, in units of the clip norm.
    updates
        Updates that the device sent; 0 costs nothing.
    delta
        Probability that the epsilon may fail.

    Raises
    ------
    ConfigError
        If ``dp-accounting`` is not installed.
    """
    return gaussian_epsilon(noise_multiplier / 2.0, updates, delta)


def gaussian_epsilon(multiplier: float, times: int, delta: float) -> float:
    """Return the epsilon of a Gaussian mechanism that was used ``times`` times.

    Parameters
    ----------
    multiplier
        Standard deviation of the noise in units of the sensitivity, > 0.
    times
        Uses, >= 0.
    delta
        In ``(0, 1)``.

    Raises
    ------
    ConfigError
        If ``dp-accounting`` is not installed.
    """
    if times == 0:
        return 0.0
    # Only a person who asks for an epsilon needs the accountant, which brings SciPy.
    try:
        from dp_accounting import GaussianDpEvent, SelfComposedDpEvent  # noqa: PLC0415
        from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415
    except ImportError:
        raise ConfigError("epsilon needs the extra 'privacy': pip install 'kinwatch[privacy]'") from None
    accountant = RdpAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(multiplier), times))
    return float(accountant.get_epsilon(delta))
