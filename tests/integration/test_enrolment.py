"""From a join code to a connection: key and request from the device, certificate from the desk, renewal, refusals."""

import ssl
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from contract.topics import RECEIPT, STATUS
from device_agent import identity
from device_agent.errors import EnrolError
from device_agent.transport import Arrived, Link, LinkDown, LinkUp, Transport
from gateway.pki.authority import serial_and_name
from gateway.pki.desk import Desk
from tests.integration.pki_rig import MOSQUITTO, Site

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; apt-get install mosquitto"),
]
DEVICE = "cam-1"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site")).start()
    yield made
    made.stop()


@pytest.fixture
def clock():
    return [time.time()]


@pytest.fixture
def desk(site, clock):
    made = Desk(site.register, "127.0.0.1", 0, clock=lambda: clock[0])
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.stop()
    thread.join()


def at(desk):
    return identity.Desk("127.0.0.1", desk.port)


def code_for(site, device=DEVICE, *, ttl_s=600.0):
    return site.register.make_code(device, ttl_s=ttl_s, now_s=time.time())


def agent_link(site, folder, keepalive_s=30):
    return Link(
        host="127.0.0.1",
        port=site.port,
        client_id=DEVICE,
        will_topic=f"kinwatch/1/device/{DEVICE}/status",
        will_payload=b"{}",
        keepalive_s=keepalive_s,
        ca_file=str(folder / "ca.crt"),
        cert_file=str(folder / "device.crt"),
        key_file=str(folder / "device.key"),
    )


PEM_END = "\n-----END CERTIFICATE-----\n"


def heard(transport, kind, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in transport.take():
            if isinstance(event, kind):
                return event
        time.sleep(0.02)
    raise AssertionError(f"no {kind.__name__}")


def test_a_join_code_gives_a_certificate_once_and_the_key_stays(site, desk, tmp_path):
    code = code_for(site)
    identity.enrol(tmp_path, DEVICE, at(desk), code)
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600
    client = site.client(tmp_path)
    assert client.joined()
    client.close()
    with pytest.raises(EnrolError, match="ask for a new code"):
        identity.enrol(tmp_path / "again", DEVICE, at(desk), code)


def test_a_code_is_for_one_device_and_for_a_while(site, desk, clock, tmp_path):
    with pytest.raises(EnrolError, match="does not let this device in"):
        identity.enrol(tmp_path / "other", "cam-2", at(desk), code_for(site))
    late = code_for(site, ttl_s=60.0)
    clock[0] += 61.0
    with pytest.raises(EnrolError, match="does not let this device in"):
        identity.enrol(tmp_path / "late", DEVICE, at(desk), late)
    assert desk.counts["denied"] == 2


def test_a_newer_code_replaces_the_older_one(site, desk, tmp_path):
    first, second = code_for(site), code_for(site)
    with pytest.raises(EnrolError, match="ask for a new code"):
        identity.enrol(tmp_path, DEVICE, at(desk), first)
    identity.enrol(tmp_path, DEVICE, at(desk), second)


def test_nothing_is_told_to_a_desk_that_the_code_does_not_name(site, desk, tmp_path):
    code = code_for(site)
    wrong = code[:33] + ("0" if code[33] != "0" else "1") + code[34:]
    with pytest.raises(EnrolError, match="is not the gateway that gave this join code"):
        identity.enrol(tmp_path, DEVICE, at(desk), wrong)
    identity.enrol(tmp_path, DEVICE, at(desk), code)


def test_renewal_goes_on_with_the_session(site, desk, tmp_path):
    """A message that comes between the two certificates is delivered after the reconnect with the new one."""
    identity.enrol(tmp_path, DEVICE, at(desk), code_for(site))
    topic = RECEIPT.of(device=DEVICE)
    transport = Transport(agent_link(site, tmp_path), (topic,))
    gateway = site.gateway()
    try:
        transport.start()
        heard(transport, LinkUp)
        old = (tmp_path / "device.crt").read_bytes()
        identity.renew(tmp_path, DEVICE, at(desk))
        assert (tmp_path / "device.crt").read_bytes() != old
        transport._looked_s -= 60.0
        transport.take()
        assert transport.connected
        assert gateway.joined()
        gateway.say(topic, b"over the old connection")
        assert heard(transport, Arrived).payload == b"over the old connection"
        # The old certificate is worthless from here on: only the renewed one opens the next connection.
        serial, _ = serial_and_name(ssl.PEM_cert_to_DER_cert(old.decode().partition("\n-----END")[0] + PEM_END))
        site.register.revoke(serial, now_s=time.time())
        transport.stop()
        gateway.say(topic, b"while it was away")
        again = Transport(agent_link(site, tmp_path), (topic,))
        site.reload()
        again.start()
        assert heard(again, Arrived, 30.0).payload == b"while it was away"
        again.stop()
    finally:
        transport.stop()
        gateway.close()


def test_a_revoked_device_cannot_renew(site, desk, tmp_path):
    identity.enrol(tmp_path, "cam-9", at(desk), code_for(site, "cam-9"))
    site.register.revoke("cam-9", now_s=time.time())
    with pytest.raises(EnrolError, match="does not let this device in"):
        identity.renew(tmp_path, "cam-9", at(desk))


def test_a_certificate_renews_its_own_name_only(site, desk, tmp_path):
    identity.enrol(tmp_path, DEVICE, at(desk), code_for(site))
    with pytest.raises(EnrolError, match="does not let this device in"):
        identity.renew(tmp_path, "cam-2", at(desk))


def test_the_command_lines_work_together(site, desk, tmp_path):
    """Join code from one program, certificate by the other, nothing to renew yet, then the list."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    config = tmp_path / "gateway.toml"
    config.write_text(
        f'[store]\ndir = "state"\n[signing]\ndir = "keys"\n[pki]\ndir = "{site.directory / "pki"}"\n', encoding="utf-8"
    )
    code = run("gateway.cli", "join-code", "plug-1", "--ttl", "30m", "--config", str(config))
    enrol = ("device_agent", "enrol", "--device", "plug-1", "--dir", str(tmp_path / "tls"))
    where = ("--gateway", f"127.0.0.1:{desk.port}")
    assert "certificate in" in run(*enrol, *where, "--code", code)
    assert "more days" in run(*enrol, *where)
    assert "certificate in" in run(*enrol, *where, "--renew-days", "1000")
    assert run(*enrol).startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert run("gateway.cli", "pki", "list", "--config", str(config)).count("plug-1") == 2
    run("gateway.cli", "pki", "revoke", "plug-1", "--config", str(config))
    assert run("gateway.cli", "pki", "list", "--config", str(config)).count("revoked") >= 2


class Live:
    """A device's transport that is up, and what it says about its link."""

    def __init__(self, site, folder, name):
        link = replace(agent_link(site, folder), client_id=name, will_topic=STATUS.of(device=name))
        (folder / "ca.crt").write_bytes(site.register.read("ca.crt"))
        self.transport = Transport(link, (RECEIPT.of(device=name),))
        self.transport.start()
        heard(self.transport, LinkUp)
        self.downs = 0

    def look(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.downs += sum(isinstance(event, LinkDown) for event in self.transport.take())
            time.sleep(0.02)
        return self.transport.connected


def test_revoking_a_device_ends_its_live_connection_and_no_other(site, tmp_path):
    """A revocation list alone does not: the broker looks at certificates when a client connects."""
    config = tmp_path / "gateway.toml"
    config.write_text(f'[store]\ndir = "s"\n[signing]\ndir = "k"\n[pki]\ndir = "{site.register.path("")}"\n')
    revoke = [sys.executable, "-m", "gateway.cli", "pki", "revoke", "--config", str(config)]
    site.revive()
    bad, good = Live(site, site.device("bad-cam"), "bad-cam"), Live(site, site.device("good-cam"), "good-cam")
    watcher = site.gateway()
    try:
        assert watcher.joined()
        watcher.listen(STATUS.of(device="bad-cam"))
        done = subprocess.run([*revoke, "bad-cam"], capture_output=True, text=True, check=True, timeout=30)
        assert "a connection that is up stays" in done.stdout
        site.reload()
        assert bad.look(1.5)
        assert bad.downs == 0
        # It has no live certificate left to revoke, so the whole is shown with a new one.
        site.device("bad-cam")
        hang_up = ["--broker", f"127.0.0.1:{site.port}", "--reload", f"kill -HUP {site._process.pid}"]
        done = subprocess.run([*revoke, "bad-cam", *hang_up], capture_output=True, text=True, check=True, timeout=30)
        assert "its connection is dropped" in done.stdout
        assert not bad.look(4.0)
        assert bad.downs >= 2, "dropped, and refused when it came back"
        assert good.look(0.1)
        assert good.downs == 0
        watcher.until(lambda: any(b"revoked" in payload for _, payload in watcher.heard))
        assert not list(site.register.path("").glob(".lent*"))
        assert [e["name"] for e in site.register.issued() if e["revoked_s"] is None].count("bad-cam") == 0
    finally:
        watcher.close()
        bad.transport.stop()
        good.transport.stop()


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--reload", "false"], "failed"),
        (["--reload", "no-such-program"], "cannot be run"),
        (["--reload", "true", "--broker", "here"], "write HOST:PORT"),
        (["--reload", "true", "--broker", "127.0.0.1:1"], "restart the broker"),
    ],
)
def test_a_revocation_that_cannot_be_carried_out_says_so_in_one_line(site, tmp_path, extra, complaint):
    config = tmp_path / "gateway.toml"
    config.write_text(f'[store]\ndir = "s"\n[signing]\ndir = "k"\n[pki]\ndir = "{site.register.path("")}"\n')
    site.device("odd-cam")
    command = [sys.executable, "-m", "gateway.cli", "pki", "revoke", "odd-cam", "--config", str(config), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert all(e["revoked_s"] for e in site.register.issued() if e["name"] == "odd-cam")
