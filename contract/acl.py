"""Who may do what on the broker, from the topic table, as Mosquitto's access file.

A device's user name is the common name of its certificate and its device id, so ``%u`` stands for the id. Mosquitto
grants a foreign subscription and withholds the messages; only what is listed here is delivered.
"""

from collections.abc import Iterable

from contract.topics import ANY_BIRTH, TOPICS, Topic

DEFAULT_GATEWAY = "kinwatch-gateway"


def render_acl(
    *, gateways: Iterable[str] = (DEFAULT_GATEWAY,), harnesses: Iterable[str] = (), readers: Iterable[str] = ()
) -> str:
    """Return the access file.

    Parameters
    ----------
    gateways
        User names of gateways.
    harnesses
        User names that may give run commands and marks, and read everything.
    readers
        User names that may read everything and say nothing, such as dashboards.
    """
    lines = [
        "# Generated from contract/topics.py; do not edit. What is not listed is refused.",
        "",
        "# Every device, under its own id alone: %u is the common name of its certificate.",
    ]
    lines += [f"pattern {verb} {_own(topic)}" for verb, topic in _device_rows()]
    for user in gateways:
        lines += ["", f"user {user}"]
        lines += [f"topic write {t.wildcard}" for t in TOPICS if t.publisher == "gateway"]
        lines += [f"topic read {t.wildcard}" for t in TOPICS if "gateway" in t.readers]
        lines += [f"topic read {ANY_BIRTH}"]
    for user in harnesses:
        lines += ["", f"user {user}", *_read_all()]
        lines += [f"topic write {t.wildcard}" for t in TOPICS if t.publisher == "harness"]
    for user in readers:
        lines += ["", f"user {user}", *_read_all()]
    return "\n".join(lines) + "\n"


def _device_rows() -> list[tuple[str, Topic]]:
    writes = [("write", topic) for topic in TOPICS if topic.publisher == "device"]
    return writes + [("read", topic) for topic in TOPICS if "device" in topic.readers]


def _own(topic: Topic) -> str:
    return topic.full.replace("{device}", "%u").replace("{digest}", "+").replace("{run}", "+")


def _read_all() -> list[str]:
    return [f"topic read {t.wildcard}" for t in TOPICS if "harness" in t.readers or t.publisher == "harness"]
