"""What an attacker with a valid certificate, or none, cannot do; and that each check sees it when the broker lets it.

Every attack is a function that says whether it succeeded. It must fail against the generated configuration and succeed
against a loosened one: a check that cannot see the hole proves nothing. Mosquitto grants foreign subscriptions and
withholds the messages, so what counts is delivery; a message that is allowed and comes later ends the waiting.
"""

import socket
import ssl
import time
import warnings

import pytest

from contract.topics import (
    ASSIGNMENT,
    CHUNK,
    COMMAND,
    GATEWAY_STATE,
    MARKS,
    PART,
    PULL,
    RECEIPT,
    RELEASE,
    RELEASE_OFFER,
    ROOT,
    STATUS,
    TASK,
    TOPICS,
    VERSIONS,
)
from gateway.pki.register import Register
from tests.integration.pki_rig import MOSQUITTO, MOSQUITTO_2_1, Site

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; apt-get install mosquitto"),
]
A, B = "cam-a", "cam-b"
DIGEST = "a" * 64
RUN = {"run": "run-1"}


def reaches(site, topic):
    """Return whether what device A publishes on ``topic`` comes to somebody who may read it."""
    # A's own status is delivered after whatever was let through before it.
    watcher, attacker = site.gateway(), site.client(site.device(A))
    lab = site.client(site.device("lab"), client_id="lab")
    try:
        assert attacker.joined()
        assert watcher.joined()
        assert lab.joined()
        for listener in (watcher, lab):
            listener.listen(topic, STATUS.of(device=A))
        attacker.say(topic, b"forged")
        attacker.say(STATUS.of(device=A), b"end")
        for listener in (watcher, lab):
            listener.until(lambda one=listener: (STATUS.of(device=A), b"end") in one.heard)
        return any((topic, b"forged") in one.heard for one in (watcher, lab))
    finally:
        for client in (watcher, attacker, lab):
            client.close()


def overhears(site, topic, *, by=None):
    """Return whether device A hears what is meant for B on ``topic``."""
    speaker = site.gateway() if by is None else site.client(site.device(by), client_id=by)
    herald, spy = site.gateway() if by is not None else speaker, site.client(site.device(A))
    try:
        assert speaker.joined()
        assert herald.joined()
        assert spy.joined()
        spy.listen(topic, f"{ROOT}/device/{B}/#", f"{ROOT}/#", "#", RECEIPT.of(device=A))
        speaker.say(topic, b"secret")
        herald.say(RECEIPT.of(device=A), b"end")
        spy.until(lambda: (RECEIPT.of(device=A), b"end") in spy.heard)
        return (topic, b"secret") in spy.heard
    finally:
        for client in {speaker, herald, spy}:
            client.close()


def takes_over_session(site):
    """Return whether A, calling itself B at the connect, gets what waits for B."""
    folder = site.device(B)
    owner = site.client(folder, client_id=B, keep=True, subscribe=[TASK.of(device=B)])
    assert owner.joined()
    owner.until(lambda: owner.subscribed)
    owner.close()
    gateway = site.gateway()
    assert gateway.joined()
    gateway.say(TASK.of(device=B), b"for B alone")
    thief = site.client(site.device(A), client_id=B, keep=True)
    try:
        assert thief.joined()
        thief.listen(RECEIPT.of(device=A))
        gateway.say(RECEIPT.of(device=A), b"end")
        thief.until(lambda: thief.heard)
        return (TASK.of(device=B), b"for B alone") in thief.heard
    finally:
        gateway.close()
        thief.close()


def joins(site, folder, **settings):
    client = site.client(folder, **settings)
    try:
        return client.joined()
    finally:
        client.close()


def joins_revoked(site):
    """Return whether a certificate still works after it was revoked and the broker was told."""
    folder = site.device("gone")
    assert joins(site, folder)
    site.register.revoke("gone", now_s=time.time())
    site.reload()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if not joins(site, folder):
            return False
        time.sleep(0.1)
    return True


FORGED = {t.name: t for t in TOPICS if t.publisher == "device" and t.qos}
ATTACKS = {
    **{f"publish as B: {name}": (lambda s, t=t: reaches(s, t.of(device=B))) for name, t in FORGED.items()},
    **{
        f"hear B's {t.name}": (lambda s, t=t: overhears(s, t.of(device=B)))
        for t in (TASK, ASSIGNMENT, RECEIPT, PULL, PART)
    },
    "read B's chunks on their way up": lambda s: overhears(s, CHUNK.of(device=B), by=B),
    "hear B's marks": lambda s: overhears(s, MARKS.of(device=B, **RUN), by="lab"),
    "publish a release": lambda s: reaches(s, RELEASE.of(digest=DIGEST)),
    "offer a release": lambda s: reaches(s, RELEASE_OFFER.of(digest=DIGEST)),
    "pose as the gateway": lambda s: reaches(s, GATEWAY_STATE.of()),
    "lie about versions": lambda s: reaches(s, VERSIONS.of()),
    "give itself a task": lambda s: reaches(s, TASK.of(device=A)),
    "assign itself a model": lambda s: reaches(s, ASSIGNMENT.of(device=A)),
    "write marks": lambda s: reaches(s, MARKS.of(device=A, **RUN)),
    "command a run": lambda s: reaches(s, COMMAND.of(**RUN)),
    "take over a session": takes_over_session,
    "join without a certificate": lambda s: joins(s, None),
    "join with a revoked certificate": joins_revoked,
}


@pytest.fixture(autouse=True)
def _alive(request):
    for name in ("site", "open_site", "anonymous_site"):
        if name in request.fixturenames:
            request.getfixturevalue(name).revive()


def replaced(config, *pairs):
    for old, new in pairs:
        assert old in config
        config = config.replace(old, new)
    return config


def without_rules(config, acl):
    """Certificates only: no access rules, no revocation list, any client id."""
    config = replaced(config, ("use_username_as_clientid true", ""), ("crlfile", "# crlfile"))
    return config, acl + "\npattern readwrite kinwatch/#\n"


def without_certificates(config, acl):
    return replaced(
        config,
        ("require_certificate true", ""),
        ("use_identity_as_username true", ""),
        ("use_username_as_clientid true", ""),
        ("allow_anonymous false", "allow_anonymous true"),
    ), acl


@pytest.fixture(scope="module", params=["2.0", "2.1"])
def version(request):
    if request.param == "2.1" and MOSQUITTO_2_1 is None:
        pytest.skip("no Mosquitto 2.1: scripts/fetch-mosquitto gets it, KINWATCH_MOSQUITTO_21 names it")
    return request.param


@pytest.fixture(scope="module")
def site(tmp_path_factory, version):
    made = Site(tmp_path_factory.mktemp("site"), version=version).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def open_site(tmp_path_factory, version):
    made = Site(tmp_path_factory.mktemp("open"), loosen=without_rules, version=version).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def anonymous_site(tmp_path_factory, version):
    made = Site(tmp_path_factory.mktemp("anonymous"), loosen=without_certificates, version=version).start()
    yield made
    made.stop()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(site, name):
    assert not ATTACKS[name](site)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_attack_is_seen_when_the_broker_lets_it(open_site, anonymous_site, name):
    assert ATTACKS[name](anonymous_site if name == "join without a certificate" else open_site)


def test_an_expired_certificate_does_not_connect_and_its_successor_does(site):
    day_s = 86_400
    old = site.device(A, now_s=time.time() - 10 * day_s, days=9.0)
    assert not joins(site, old)
    assert joins(site, site.device(A))


def test_a_certificate_of_another_authority_does_not_connect(site, tmp_path):
    foreign = Register(tmp_path / "foreign")
    foreign.init(["127.0.0.1"], now_s=time.time())
    assert not joins(site, site.device(A, register=foreign))


def test_the_brokers_own_certificate_is_no_pass_for_a_client(site):
    here = site.directory / "pki"
    context = ssl.create_default_context(cafile=here / "ca.crt")
    context.load_cert_chain(here / "broker.crt", here / "broker.key")
    assert not joins(site, None, context=context)


def test_nothing_older_than_tls_1_2_is_spoken(site):
    """The client would speak 1.1; the broker does not. With 1.2 allowed as well, that is what they agree on."""
    folder = site.device(A)

    def agreed(newest):
        context = site.context(folder)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.maximum_version = newest
        with (
            socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as caller,
        ):
            return caller.version()

    with pytest.raises(ssl.SSLError):
        agreed(ssl.TLSVersion.TLSv1_1)
    assert agreed(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
