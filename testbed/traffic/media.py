"""Benign activities of media devices: cameras, doorbells, baby monitors."""

from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.common import CLOUD_EAST, Play, dns_lookup, tls_session
from testbed.traffic.conversation import TcpConversation, UdpConversation
from testbed.traffic.scene import HUB, PHONE, RECORDER, US_PER_S, Scene, outside_host
from testbed.traffic.wire import Host

RTSP_PORT: Final = 554
RELAY: Final = outside_host("198.51.100.77", ttl=49)
_SDP: Final = (
    b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=stream1\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    b"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=4d0029\r\na=control:track1\r\n"
)
# Made up; only ever inside synthetic packets.
_VIEWER: Final = ("view", "s3cret-view")
_CLOCK_HZ: Final = 90_000
_KEY_FRAME_EVERY: Final = 20


def _video_frames(scene: Scene, seconds: float, fps: float, scale: float) -> list[tuple[float, list[bytes]]]:
    """Return (gap to the next frame in s, RTP packets) for a piece of video: big key frames, small others."""
    frames, sequence = [], scene.integer(0, 0xFFFF)
    for number in range(max(1, int(seconds * fps))):
        if number % _KEY_FRAME_EVERY == 0:
            size = int(scene.lognormal(7000 * scale, 0.25, low=2500, high=16_000))
        else:
            size = int(scene.lognormal(1100 * scale, 0.5, low=160, high=5000))
        packets = []
        for offset in range(0, size, 1388):
            last = offset + 1388 >= size
            body = scene.noise(min(1388, size - offset))
            packets.append(say.rtp_packet(sequence, int(number * _CLOCK_HZ / fps), body, marker=last))
            sequence += 1
        frames.append((scene.lognormal(1 / fps, 0.15, low=0.4 / fps, high=3 / fps), packets))
    return frames


def _fit_s(scene: Scene, at_us: int, seconds: float) -> float:
    """Return the length of a stream, cut at the scene's end, seconds."""
    return (scene.until_us(at_us, seconds) - at_us) / US_PER_S


def _rtsp_setup(talk: TcpConversation, address: str, transport: str) -> None:
    """Open a stream: options, describe (challenged first), set-up, play."""
    ok = "200 OK"
    talk.exchange(say.rtsp_request("OPTIONS", address, 1), say.rtsp_response(ok, 1))
    talk.exchange(say.rtsp_request("DESCRIBE", address, 2), say.rtsp_response("401 Unauthorized", 2))
    login = 'Authorization: Digest username="view", realm="device", nonce="4b57", response="' + "0f" * 16 + '"'
    talk.exchange(say.rtsp_request("DESCRIBE", address, 3, login), say.rtsp_response(ok, 3, _SDP))
    talk.exchange(say.rtsp_request("SETUP", address, 4, f"Transport: {transport}"), say.rtsp_response(ok, 4))
    talk.exchange(say.rtsp_request("PLAY", address, 5, "Range: npt=0.000-"), say.rtsp_response(ok, 5))


def live_view(
    period_s: float, seconds: float, *, fps: float = 10.0, scale: float = 1.0, tcp_share: float = 0.3
) -> Play:
    """Return an activity: the recorder watches by RTSP; video as RTP over UDP or inside the RTSP connection."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.25):
            length_s = _fit_s(scene, at_us, scene.lognormal(seconds, 0.35, low=3.0, high=2.5 * seconds))
            talk = TcpConversation(scene, RECORDER, scene.device, RTSP_PORT, at_us).open()
            if scene.chance(tcp_share):
                _rtsp_setup(talk, scene.device.address, "RTP/AVP/TCP;interleaved=0-1")
                for gap_s, packets in _video_frames(scene, length_s, fps, scale):
                    began_us = talk.t_us
                    framed = b"".join(b"$\0" + len(p).to_bytes(2, "big") + p for p in packets)
                    talk.server_sends(framed)
                    talk.wait(max(0.001, gap_s - (talk.t_us - began_us) / US_PER_S))
            else:
                _rtsp_setup(talk, scene.device.address, "RTP/AVP;unicast")
                end_us = _send_rtp(scene, RECORDER, talk.t_us, length_s, (fps, scale))
                while talk.t_us < end_us - 5 * US_PER_S:
                    talk.wait(5.0)
                    talk.exchange(
                        say.rtsp_request("GET_PARAMETER", scene.device.address, 6), say.rtsp_response("200 OK", 6)
                    )
                talk.t_us = max(talk.t_us, end_us)
            talk.exchange(say.rtsp_request("TEARDOWN", scene.device.address, 9), say.rtsp_response("200 OK", 9))
            talk.close()

    return play


def _send_rtp(scene: Scene, viewer: Host, at_us: int, length_s: float, quality: tuple[float, float]) -> int:
    """Stream video over UDP; return the end, microseconds."""
    stream = UdpConversation(scene, scene.device, viewer, 50_004, at_us)
    for gap_s, packets in _video_frames(scene, length_s, *quality):
        for packet in packets:
            stream.client_sends(packet)
            stream.wait(scene.uniform(0.0002, 0.001))
        stream.wait(gap_s)
    return stream.t_us


def phone_stream(period_s: float, seconds: float, *, fps: float, scale: float) -> Play:
    """Return an activity: audio both ways and video to the phone, over UDP."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            length_s = _fit_s(scene, at_us, scene.lognormal(seconds, 0.4, low=3.0, high=2.5 * seconds))
            _send_rtp(scene, PHONE, at_us, length_s, (fps, scale))
            audio = UdpConversation(scene, scene.device, PHONE, 50_006, at_us + 40_000)
            for number in range(int(length_s / 0.06)):
                body = scene.noise(scene.integer(120, 170))
                audio.client_sends(say.rtp_packet(number, number * 960, body, marker=False))
                if scene.chance(0.5):
                    audio.server_sends(say.rtp_packet(number, number * 960, body[:140], marker=False))
                audio.wait(scene.uniform(0.055, 0.065))

    return play


def clip_upload(period_s: float, median_bytes: float) -> Play:
    """Return an activity: after motion, a clip goes to the cloud by TLS."""

    def play(scene: Scene) -> None:
        for at_us in scene.random_times_us(period_s):
            start_us = dns_lookup(scene, at_us, "clips.cloud.example")
            size = int(scene.lognormal(median_bytes, 0.5, low=25_000, high=4 * median_bytes))
            tls_session(scene, start_us, CLOUD_EAST, upload_bytes=size, download_bytes=240, pace_s=0.004)

    return play


def snapshots(period_s: float, *, wrong_share: float = 0.08) -> Play:
    """Return an activity: recorder and phone fetch stills by HTTP; sometimes an app tries an old password."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.35):
            viewer = RECORDER if scene.chance(0.7) else PHONE
            page = say.http_request("GET", "/snapshot.jpg", scene.device.address, user=_VIEWER[0], password=_VIEWER[1])
            if scene.chance(wrong_share):
                start_us = at_us
                for _ in range(scene.integer(2, 5)):
                    talk = TcpConversation(scene, viewer, scene.device, 80, start_us).open()
                    talk.exchange(page, say.http_response("401 Unauthorized", b"{}"))
                    talk.close(by_client=scene.chance(0.5))
                    start_us = talk.t_us + scene.integer(80_000, 900_000)
                continue
            talk = TcpConversation(scene, viewer, scene.device, 80, at_us).open()
            if scene.chance(0.4):
                plain = say.http_request("GET", "/snapshot.jpg", scene.device.address)
                talk.exchange(plain, say.http_response("401 Unauthorized", b"{}"))
            still = scene.noise(int(scene.lognormal(9000, 0.4, low=2500, high=30_000)))
            talk.exchange(page, say.http_response("200 OK", still, "image/jpeg"), think_s=0.02)
            talk.close()

    return play


def grid_view(period_s: float) -> Play:
    """Return an activity: an app shows stills of all cameras and asks about three times a second for a while."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            until_us, next_us = scene.until_us(at_us, scene.uniform(4.0, 10.0)), at_us
            page = say.http_request("GET", "/thumb.jpg", scene.device.address, user=_VIEWER[0], password=_VIEWER[1])
            while next_us < until_us:
                talk = TcpConversation(scene, PHONE, scene.device, 80, next_us).open()
                still = scene.noise(int(scene.lognormal(700, 0.6, low=60, high=4000)))
                talk.exchange(page, say.http_response("200 OK", still, "image/jpeg"))
                talk.close(by_client=scene.chance(0.5))
                next_us += scene.integer(180_000, 520_000)

    return play


def event_subscription(period_s: float, seconds: float) -> Play:
    """Return an activity: the hub keeps an HTTP connection open and hears of an event now and then."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            talk = TcpConversation(scene, HUB, scene.device, 80, at_us).open()
            talk.client_sends(say.http_request("GET", "/events", scene.device.address))
            until_us = scene.until_us(at_us, scene.lognormal(seconds, 0.4, low=4.0, high=2 * seconds))
            while talk.t_us < until_us:
                talk.wait(scene.uniform(2.0, 6.0))
                talk.server_sends(b"event: " + scene.noise(scene.integer(6, 40)).hex().encode() + b"\r\n")
            talk.close(by_client=scene.chance(0.5))

    return play


def relay_keepalive(period_s: float) -> Play:
    """Return an activity: STUN binding requests that keep a path through the router open."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.1):
            talk = UdpConversation(scene, scene.device, RELAY, 3478, at_us)
            for _ in range(scene.integer(1, 3)):
                mark = scene.noise(12)
                talk.exchange(say.stun_request(mark), say.stun_request(mark, answer=True))
                talk.wait(scene.uniform(0.4, 1.2))

    return play


def cloud_socket(period_s: float, seconds: float) -> Play:
    """Return an activity: a TLS connection kept for a while, small messages both ways."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.2):
            talk = TcpConversation(scene, scene.device, RELAY, 443, at_us).open()
            talk.exchange(say.tls_record(22, scene.noise(330)), say.tls_record(22, scene.noise(2300)))
            until_us = scene.until_us(at_us, scene.lognormal(seconds, 0.3, low=3.0, high=2 * seconds))
            while talk.t_us < until_us:
                talk.exchange(
                    say.tls_record(23, scene.noise(scene.integer(90, 260))),
                    say.tls_record(23, scene.noise(scene.integer(30, 90))),
                )
                talk.wait(scene.uniform(0.7, 2.2))
            talk.close()

    return play
