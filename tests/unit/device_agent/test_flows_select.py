"""Choice of the meter engine."""

import pytest

from device_agent.flows import select
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.fast import engine
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.select import make_meter

HOURS = MeterSettings(idle_s=7_200, active_s=86_400)


def test_auto_takes_the_compiled_meter_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "load", lambda: None)
    assert isinstance(make_meter(), ColumnarMeter)
    monkeypatch.setattr(select, "load", lambda: "a library")
    monkeypatch.setattr(engine, "FastMeter", lambda settings, dissector: ("fast", settings, dissector))
    assert make_meter() == ("fast", MeterSettings(), None)


def test_asking_for_a_compiled_meter_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "load", lambda: None)
    with pytest.raises(ValueError, match="run scripts/build-fast"):
        make_meter(prefer="fast")


def test_timeouts_of_hours_fall_to_the_packet_meter() -> None:
    assert isinstance(make_meter(HOURS), FlowMeter)


def test_the_packet_meter_can_be_asked_for() -> None:
    assert isinstance(make_meter(prefer="packet"), FlowMeter)


def test_the_columnar_meter_refuses_what_it_cannot_do_exactly() -> None:
    with pytest.raises(ValueError, match="timeouts too long"):
        make_meter(HOURS, prefer="columnar")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="no meter engine 'gpu'"):
        make_meter(prefer="gpu")  # type: ignore[arg-type]
