"""Which devices' benign traffic changed, told apart from attacks. No I/O.

A device says in its telemetry which features drifted. It counts only while the device raises few alerts: traffic under
attack is no new normal. A device that drifted is placed anew once, with the first signature that came since it was
placed last.
"""

from collections.abc import Mapping

from contract.messages import Telemetry


class DriftWatch:
    """What devices said of their traffic.

    Parameters
    ----------
    alarm_share
        Alerts by flows, between two messages, above which nothing counts.
    placed
        Sequence of the signature that each device was last placed with.

    Attributes
    ----------
    changed
        Devices that drifted since :meth:`start_over`.
    """

    def __init__(self, alarm_share: float, placed: Mapping[str, int]) -> None:
        self._alarm_share = alarm_share
        self._placed = dict(placed)
        self._seen: dict[str, tuple[str, int, int]] = {}
        self._drifting: dict[str, tuple[str, ...]] = {}
        self.changed: set[str] = set()

    def heard(self, telemetry: Telemetry) -> None:
        """Take the telemetry of a device."""
        device_id = telemetry.device_id
        alerts = telemetry.alerts + telemetry.suppressed_alerts
        session, flows_before, alerts_before = self._seen.get(device_id, (telemetry.session, 0, 0))
        if session != telemetry.session:
            flows_before = alerts_before = 0
        self._seen[device_id] = (telemetry.session, telemetry.flows, alerts)
        under_attack = alerts - alerts_before > self._alarm_share * max(1, telemetry.flows - flows_before)
        if under_attack or not telemetry.drifted_features:
            self._drifting.pop(device_id, None)
        else:
            self._drifting[device_id] = telemetry.drifted_features

    def features_if_due(self, device_id: str, sequence: int) -> tuple[str, ...]:
        """Return the drifted features of a device that is to be placed anew with this signature, else none."""
        features = self._drifting.get(device_id, ())
        if not features or sequence <= self._placed.get(device_id, -1):
            return ()
        self._placed[device_id] = sequence
        self.changed.add(device_id)
        return features

    def note_placed(self, device_id: str, sequence: int) -> None:
        """Note the signature that a device was first placed with."""
        self._placed.setdefault(device_id, sequence)

    def start_over(self, placed: Mapping[str, int]) -> None:
        """Forget what changed: all families were just looked for, with these signatures."""
        self._placed = dict(placed)
        self.changed.clear()
