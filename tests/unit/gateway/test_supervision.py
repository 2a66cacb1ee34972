"""Lines to systemd."""

import socket

import pytest

from gateway.supervision import notify, watchdog_interval_s


def test_a_line_reaches_the_socket(tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert receiver.recv(100) == b"READY=1"


def test_nobody_listening_is_no_error(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


@pytest.mark.parametrize(("text", "expected"), [("30000000", 15.0), ("", None), ("0", None), ("x", None)])
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(monkeypatch, text, expected):
    monkeypatch.setenv("WATCHDOG_USEC", text)
    assert watchdog_interval_s() == expected
