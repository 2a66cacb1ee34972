"""Which timeouts the meters on columns can do; apart from them, so that asking loads none."""

from device_agent.flows.meter import MeterSettings

_SECOND_US = 1_000_000


def supports(settings: MeterSettings) -> bool:
    """Whether gap statistics stay exact: timeouts of hours are for the per-packet meter."""
    idle_us, active_us = settings.idle_s * _SECOND_US, settings.active_s * _SECOND_US
    return min(idle_us, active_us) * active_us < 1 << 64
