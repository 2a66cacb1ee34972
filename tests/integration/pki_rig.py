"""A real Mosquitto with the generated configuration, an authority, and clients with certificates of its making."""

import os
import shutil
import signal
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from threading import Condition

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contract.acl import render_acl
from gateway.broker_files import render_config
from gateway.pki.authority import private_pem
from gateway.pki.register import Register
from tests.integration.fleet import free_port, wait_for_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
MOSQUITTO_2_1 = os.environ.get("KINWATCH_MOSQUITTO_21")
"""The program that scripts/fetch-mosquitto makes: Debian 12 and 13 have 2.0."""
WAIT_S = 10.0
GATEWAY = "kinwatch-gateway"


def request_for(name):
    """Return a fresh private key as PEM and a request for a certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(Encoding.PEM)


class Site:
    """An authority and a broker that trusts it."""

    def __init__(self, directory, *, loosen=lambda config, acl: (config, acl), version="2.0"):
        self.directory = directory
        self._version = version
        self._program = MOSQUITTO if version == "2.0" else MOSQUITTO_2_1
        self.port = free_port()
        self.register = Register(directory / "pki")
        self.register.init(["127.0.0.1", "localhost"], now_s=time.time())
        self._loosen = loosen
        self._process = None

    def device(self, name, *, now_s=None, days=30.0, register=None):
        """Give a device a certificate; return the directory that holds it."""
        folder = self.directory / f"{name}-{time.monotonic_ns()}"
        folder.mkdir()
        key, request = request_for(name)
        (folder / "device.key").write_bytes(key)
        signer = register or self.register
        pem = signer.issue(request, name, now_s=now_s or time.time(), days=days)
        (folder / "device.crt").write_bytes(pem)
        return folder

    def start(self):
        here = self.directory / "pki"
        plugins = (
            "" if self._version == "2.0" else str(next(Path(self._program).parent.glob("root/usr/lib/*/mosquitto")))
        )
        config = render_config(self._version, directory=str(here), port=self.port, address="127.0.0.1", plugins=plugins)
        config = config.replace("/var/lib/mosquitto/", f"{self.directory}/") + "user root\n"
        config, acl = self._loosen(config, render_acl(harnesses=["lab"]))
        (here / "acl").write_text(acl)
        (here / "acl").chmod(0o600)
        (self.directory / "mosquitto.conf").write_text(config)
        with (self.directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self.directory / "mosquitto.conf")], stderr=log, stdout=log
            )
        wait_for_port(self.port)
        return self

    def revive(self):
        """Start the broker again if it crashed, as its unit does: 2.0.11 may fall over a refused handshake."""
        if self._process.poll() is not None:
            self.start()

    def reload(self):
        self._process.send_signal(signal.SIGHUP)

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def context(self, folder=None, *, ca=None):
        context = ssl.create_default_context(cafile=ca or self.directory / "pki" / "ca.crt")
        if folder is not None:
            context.load_cert_chain(folder / "device.crt", folder / "device.key")
        return context

    def client(self, folder=None, **settings):
        return Client(self, folder, **settings)

    def gateway(self):
        here = self.directory / "pki"
        context = ssl.create_default_context(cafile=here / "ca.crt")
        context.load_cert_chain(here / "gateway.crt", here / "gateway.key")
        return Client(self, None, context=context, client_id=GATEWAY)


class Client:
    """One connection that remembers what it heard."""

    def __init__(self, site, folder, *, context=None, client_id="anybody", subscribe=(), keep=False):
        self.heard = []
        self.up = None
        self.reasons = []
        self._news = Condition()
        self._subscribe = list(subscribe)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(context or site.context(folder))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._acknowledged = set()
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self.subscribed = 0
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600 if keep else 0
        with suppress(ssl.SSLError, OSError):
            self._client.connect("127.0.0.1", site.port, clean_start=not keep, properties=properties)
            self._client.loop_start()

    def joined(self):
        """Return whether the broker let us in."""
        self.until(lambda: self.up is not None, quietly=True, seconds=3.0)
        return bool(self.up)

    def say(self, topic, payload=b"x", *, retain=False):
        """Publish, and wait until the broker has answered."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self.until(lambda: info.mid in self._acknowledged)

    def listen(self, *topics):
        before = self.subscribed
        self._client.subscribe([(topic, 1) for topic in topics])
        self.until(lambda: self.subscribed > before)

    def until(self, met, *, seconds=WAIT_S, quietly=False):
        with self._news:
            done = self._news.wait_for(met, seconds)
        assert done or quietly, "never came"
        return done

    def topics(self):
        return [topic for topic, _ in self.heard]

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, work):
        with self._news:
            work()
            self._news.notify_all()

    def _on_connect(self, client, _data, _flags, reason, _properties):
        if not reason.is_failure and self._subscribe:
            client.subscribe([(topic, 1) for topic in self._subscribe])
        self._note(lambda: setattr(self, "up", not reason.is_failure))

    def _on_disconnect(self, _client, _data, _flags, reason, _properties):
        self._note(lambda: (self.reasons.append(str(reason)), setattr(self, "up", False)))

    def _on_message(self, _client, _data, message):
        self._note(lambda: self.heard.append((message.topic, bytes(message.payload))))

    def _on_publish(self, _client, _data, mid, _reason, _properties):
        self._note(lambda: self._acknowledged.add(mid))

    def _on_subscribe(self, *_):
        self._note(lambda: setattr(self, "subscribed", self.subscribed + 1))
