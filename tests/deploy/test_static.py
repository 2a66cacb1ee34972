"""Checks of the deployment files that need no machine: lint, units, and agreement with contract and agent."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography import x509

from contract.topics import ROOT, TOPICS
from device_agent.boards import load_board

REPOSITORY = Path(__file__).resolve().parents[2]
ANSIBLE = REPOSITORY / "ansible"
FIRMWARE = REPOSITORY / "firmware_configs"
BIN = Path(sys.executable).parent
BOARDS = sorted((FIRMWARE / "boards").glob("*.toml"))
UNITS = sorted((FIRMWARE / "systemd").glob("*.service"))
# The exposure systemd computes, times ten; 0 is best, 100 worst.
EXPOSURE_LIMIT = {
    "kinwatch-agent.service": 20,
    "kinwatch-gateway.service": 16,
    "kinwatch-enrol-desk.service": 16,
    "kinwatch-renew.service": 16,
}


def tool(name: str) -> str:
    """Return the path of a program, beside this Python first; skip the test without it."""
    found = shutil.which(name, path=f"{BIN}:{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*argv: str, cwd: Path = ANSIBLE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}", "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def runnable_unit(tmp_path, request):
    """A unit whose program exists on this machine, so that only the unit itself is judged."""
    text = re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", request.param.read_text(), flags=re.MULTILINE)
    unit = tmp_path / request.param.name
    unit.write_text(text)
    return unit


def test_ansible_lint_passes_its_strictest_profile():
    done = run(tool("ansible-lint"), "--offline", "--nocolor", "site.yml", "reset.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_yamllint_finds_nothing():
    done = run(tool("yamllint"), "--strict", ".")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("playbook", ["site.yml", "reset.yml"])
def test_playbooks_parse_with_the_example_inventory(playbook):
    done = run(tool("ansible-playbook"), "--syntax-check", "-i", "inventories/example", playbook)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("runnable_unit", UNITS, indirect=True, ids=lambda path: path.name)
def test_systemd_accepts_the_unit_without_a_word(runnable_unit):
    """systemd-analyze exits 0 for unknown keys and bad values; it only mentions them."""
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(runnable_unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_accepts_the_timer_of_the_renewal(tmp_path):
    for name in ("kinwatch-renew.timer", "kinwatch-renew.service"):
        text = re.sub(
            r"^ExecStart=.*$", "ExecStart=/bin/true", (FIRMWARE / "systemd" / name).read_text(), flags=re.MULTILINE
        )
        (tmp_path / name).write_text(text)
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / "kinwatch-renew.timer"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["kinwatch-enrol-desk", "kinwatch-renew", "kinwatch-gateway", "kinwatch-agent"])
def test_the_command_of_a_unit_is_one_that_the_program_knows(name):
    """Whether options were renamed; the program is asked for help instead of doing it."""
    text = (FIRMWARE / "systemd" / f"{name}.service").read_text()
    program, *arguments = re.findall(r"^ExecStart=\S*/(\S+) (.*)$", text, re.MULTILINE)[0]
    module = {"kinwatch-gateway": "gateway.cli", "kinwatch-agent": "device_agent"}[program]
    words = arguments[0].split()
    done = run(sys.executable, "-m", module, words[0], "--help", cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))


@pytest.mark.parametrize("runnable_unit", UNITS, indirect=True, ids=lambda path: path.name)
def test_the_exposure_of_the_unit_stays_low(runnable_unit):
    limit = EXPOSURE_LIMIT[runnable_unit.name]
    done = run(tool("systemd-analyze"), "security", "--offline=true", f"--threshold={limit}", str(runnable_unit))
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_the_agent_gets_one_capability():
    unit = (FIRMWARE / "systemd/kinwatch-agent.service").read_text()
    granted = re.findall(r"^(AmbientCapabilities|CapabilityBoundingSet)=(.*)$", unit, re.MULTILINE)
    assert granted == [("AmbientCapabilities", "CAP_NET_RAW"), ("CapabilityBoundingSet", "CAP_NET_RAW")]


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_the_agent_reads_the_board(board):
    assert load_board(board).budget.trainer_memory_mb < load_board(board).facts.ram_mb / 2


def test_every_board_that_is_no_lab_stand_in_admits_that_nothing_was_measured():
    silent = [b.stem for b in BOARDS if "not measured on hardware" not in load_board(b).facts.gotchas]
    assert silent == ["generic-amd64"]


def test_the_board_files_that_the_role_names_exist():
    text = (ANSIBLE / "roles/device_agent/vars/main.yml").read_text()
    named = set(re.findall(r"board: ([\w-]+)\}", text)) | set(re.findall(r"^  \w+: (generic-\w+)$", text, re.MULTILINE))
    assert named == {board.stem for board in BOARDS}


def test_the_access_list_is_the_topic_table():
    """What a device may write and read on the broker is what the contract says, no more and no less."""
    text = (ANSIBLE / "roles/broker/vars/main.yml").read_text()
    writes, reads = (
        set(re.findall(r'^  - "?([^"\n]+?)"?$', part, re.MULTILINE)) for part in text.split("__broker_device_reads:")
    )

    def acl_form(pattern: str) -> str:
        return re.sub(r"\{(?!device\})\w+\}", "+", pattern)

    assert writes == {acl_form(t.pattern) for t in TOPICS if t.publisher == "device"}
    assert reads == {acl_form(t.pattern) for t in TOPICS if "device" in t.readers and t.versioned}
    acl = (ANSIBLE / "roles/broker/templates/acl.j2").read_text()
    assert set(re.findall(r"(kinwatch/\d+)/", acl)) == {ROOT}
    outside = {f"topic read {t.full}" for t in TOPICS if "device" in t.readers and not t.versioned}
    assert outside <= set(acl.splitlines())


def test_the_broker_takes_the_largest_message_of_the_contract():
    text = (FIRMWARE / "mosquitto/kinwatch.conf").read_text()
    limit = int(re.findall(r"^max_packet_size (\d+)$", text, re.MULTILINE)[0])
    longest_topic_bytes, header_bytes = 256, 64
    assert limit >= max(t.message.max_bytes for t in TOPICS) + longest_topic_bytes + header_bytes


def test_no_secret_is_in_the_tree():
    listed = run("git", "ls-files", "ansible", "firmware_configs", cwd=REPOSITORY).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    marks = re.compile(r"BEGIN (?:[A-Z]+ )?PRIVATE KEY|\$7\$\d+\$\w|(?i:password|passwd):\s*['\"]?\w{6,}")
    found = [path for path in listed if marks.search((REPOSITORY / path).read_text())]
    assert found == []


@pytest.mark.parametrize("name", ["broker", "certificate", "device_agent", "gateway", "os_packages", "wheel_venv"])
def test_each_variable_of_a_role_is_specified_and_commented(name):
    defaults = (ANSIBLE / f"roles/{name}/defaults/main.yml").read_text()
    variables = re.findall(r"^(\w+):", defaults, re.MULTILINE)
    specified = re.findall(
        r"^      (\w+):$", (ANSIBLE / f"roles/{name}/meta/argument_specs.yml").read_text(), re.MULTILINE
    )
    assert variables
    assert sorted(variables) == sorted(specified)
    assert all(variable.startswith(f"{name}_") for variable in variables)


def test_the_revocation_list_of_the_rack_names_the_revoked_and_no_other(tmp_path):
    """The tasks of the role on this machine, against an authority that OpenSSL made; a second run changes nothing."""
    ansible, openssl = tool("ansible-playbook"), tool("openssl")
    authority = tmp_path / "authority"
    (authority / "issued").mkdir(parents=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca = ["-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=rack", "-days", "9"]
    run(openssl, "req", *key, *ca, cwd=authority)
    serials = {}
    for number, name in enumerate(("cam-1", "cam-10", "cam-2"), 1):
        stem = f"issued/{name}-{'0' * 15}{number}"
        run(openssl, "req", "-new", *key, "-keyout", "k", "-out", f"{stem}.csr", "-subj", f"/CN={name}", cwd=authority)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", f"0x{number:04x}", "-out", f"{stem}.crt"]
        run(openssl, "x509", "-req", "-in", f"{stem}.csr", *signed, cwd=authority)
        serials[name] = number
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n"
        f"  vars_files: [{ANSIBLE}/roles/broker/vars/main.yml]\n"
        f"  tasks:\n    - ansible.builtin.include_tasks: {ANSIBLE}/roles/broker/tasks/revocation.yml\n"
    )

    def converge(*revoked):
        settings = json.dumps(
            {
                "broker_secrets_dir": str(tmp_path),
                "broker_revoked_ids": revoked,
                "ansible_python_interpreter": sys.executable,
            }
        )
        done = run(ansible, "-i", "localhost,", "-e", settings, str(play))
        assert done.returncode == 0, done.stdout + done.stderr
        crl = x509.load_pem_x509_crl((authority / "crl.pem").read_bytes())
        return int(re.findall(r"changed=(\d+)", done.stdout)[0]), {entry.serial_number for entry in crl}

    assert converge() == (2, set())
    assert converge()[0] == 0
    assert converge("cam-1") == (2, {serials["cam-1"]})
    assert converge("cam-1") == (0, {serials["cam-1"]})
    assert converge("cam-1", "cam-2")[1] == {serials["cam-1"], serials["cam-2"]}


def test_password_hashes_are_those_of_mosquitto(tmp_path):
    """The role's filter makes what mosquitto_passwd makes from the same password and salt."""
    mosquitto_passwd = tool("mosquitto_passwd")
    sys.path.insert(0, str(ANSIBLE / "roles/broker/filter_plugins"))
    try:
        from mosquitto import entry, mosquitto_password_hash
    finally:
        sys.path.pop(0)
    passwd = tmp_path / "passwd"
    subprocess.run([mosquitto_passwd, "-b", "-c", passwd, "cam-1", "correct horse"], check=True, capture_output=True)
    theirs = passwd.read_text().strip().removeprefix("cam-1:")
    if not theirs.startswith("$7$"):
        pytest.skip(f"this mosquitto_passwd makes another form: {theirs[:4]}")
    assert entry("correct horse", b64decode(theirs.split("$")[3])) == theirs

    ours = mosquitto_password_hash("correct horse", "cam-1")
    assert (
        ours == mosquitto_password_hash("correct horse", "cam-1") != mosquitto_password_hash("correct horse", "cam-2")
    )
    assert len(ours) == len(theirs)


def test_the_example_inventory_holds_no_routable_address():
    text = "".join(path.read_text() for path in (ANSIBLE / "inventories/example").rglob("*.yml"))
    addresses = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)
    assert addresses
    assert all(address.startswith("192.0.2.") for address in addresses)


def test_board_files_are_toml_with_the_three_parts():
    for board in BOARDS:
        assert set(tomllib.loads(board.read_text())) == {"name", "facts", "budget"}, board.name
