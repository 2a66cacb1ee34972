"""The access file says what the topic table says."""

from contract.acl import render_acl
from contract.topics import ANY_BIRTH, ROOT, TOPICS, foreign_birth


def section(text, user):
    """Return the rights of one user."""
    part = text.split(f"\nuser {user}\n", 1)[1].split("\nuser ", 1)[0]
    return {tuple(line.split()[1:]) for line in part.splitlines() if line.startswith("topic ")}


def test_devices_write_what_the_table_lets_them_and_below_their_own_id_alone():
    rules = [line.split() for line in render_acl().splitlines() if line.startswith("pattern ")]
    writes = {path for _, verb, path in rules if verb == "write"}
    assert writes == {t.full.replace("{device}", "%u") for t in TOPICS if t.publisher == "device"}
    assert all(path.startswith(f"{ROOT}/device/%u/") for path in writes)
    assert {verb for _, verb, _ in rules} == {"read", "write"}


def test_what_devices_read_names_no_other_device():
    reads = [line.split()[2] for line in render_acl().splitlines() if line.startswith("pattern read")]
    assert len(reads) == sum("device" in t.readers for t in TOPICS)
    assert not [path for path in reads if "#" in path or "/device/+" in path or path.endswith("mark/+")]


def test_gateway_harness_and_reader_have_their_parts():
    text = render_acl(gateways=["gw"], harnesses=["lab"], readers=["wall"])
    assert ("write", f"{ROOT}/model/+") in section(text, "gw")
    assert ("read", ANY_BIRTH) in section(text, "gw")
    assert not any(path.startswith(f"{ROOT}/run/") for _, path in section(text, "gw"))
    assert {path for verb, path in section(text, "lab") if verb == "write"} == {
        f"{ROOT}/run/+/mark/+",
        f"{ROOT}/run/+/command",
    }
    assert {verb for verb, _ in section(text, "wall")} == {"read"}


def test_births_of_other_majors_are_recognised():
    assert foreign_birth("kinwatch/2/device/cam-1/birth") == (2, "cam-1")
    assert foreign_birth(f"{ROOT}/device/cam-1/birth") is None
    assert foreign_birth("kinwatch/2/device/Cam/birth") is None
    assert foreign_birth("kinwatch/2/device/cam-1/status") is None
