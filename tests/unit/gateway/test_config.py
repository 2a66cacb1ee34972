"""The configuration: defaults, errors that name the key, and a print that reads back."""

import pytest

from contract.exit_codes import ExitCode
from gateway.cli import main
from gateway.config import load, read_password, render
from gateway.errors import ConfigError

SMALLEST = '[store]\ndir = "state"\n[signing]\ndir = "keys"\n'


@pytest.fixture
def write(tmp_path):
    """Write a configuration file and return its path."""

    def writer(text):
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        return path

    return writer


def complaint(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_two_directories_are_enough_and_relative_to_the_file(write, tmp_path):
    config = load(write(SMALLEST))
    assert (config.store.dir, config.signing.dir) == (tmp_path / "state", tmp_path / "keys")
    assert (config.rounds.warmup_rounds, config.families.gate, config.families.stability) == (5, 0.15, 0.8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALLEST + "[rounds]\nmax_round = 3", "unknown key rounds.max_round; did you mean rounds.max_rounds?"),
        (SMALLEST + "[round]\nmax_rounds = 3", "unknown key round; did you mean rounds?"),
        (SMALLEST + "[rounds]\nxyzzy = 3", "unknown key rounds.xyzzy"),
        ('[store]\ndir = "state"', "key signing is missing"),
        ("[store]\n[signing]\ndir='k'", "key store.dir is missing"),
        (SMALLEST + "[rounds]\nquorum = 1.5", "rounds.quorum: Input should be less than or equal to 1"),
        (SMALLEST + "[families]\nmin_size = 2", "families.min_size: Input should be greater than or equal to 3"),
        (
            SMALLEST + '[aggregation]\nrule = "mean"',
            "aggregation.rule: no rule 'mean'; take clipped, fedavg, trimmed, median, multi-krum or plugin:<name>",
        ),
    ],
)
def test_an_error_names_file_and_key(write, text, expected):
    assert complaint(write(text)) == expected


def test_plain_text_over_a_network_must_be_wanted(write):
    text = SMALLEST + '[broker]\nhost = "10.0.0.5"\n'
    assert "set allow_plaintext = true" in complaint(write(text))
    assert load(write(text + "allow_plaintext = true\n")).broker.host == "10.0.0.5"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_this_machine_needs_no_permission(write, host):
    assert load(write(SMALLEST + f'[broker]\nhost = "{host}"\n')).broker.host == host


def test_a_file_that_is_no_toml_or_not_there(write, tmp_path):
    assert complaint(write("[store")).startswith("not TOML: ")
    assert complaint(tmp_path / "missing.toml") == "cannot be read: No such file or directory"


def test_the_print_reads_back_to_the_same(write, tmp_path):
    config = load(write(SMALLEST + '[broker]\nusername = "a\\"b"\npassword_file = "pw"\n[aggregation]\ntau = 1e-5\n'))
    again = tmp_path / "again.toml"
    again.write_text(render(config))
    assert load(again) == config


def test_the_password_is_the_first_line_of_its_file(write, tmp_path):
    config = load(write(SMALLEST + '[broker]\npassword_file = "pw"\n'))
    with pytest.raises(ConfigError, match=r"broker\.password_file .*pw: cannot be read"):
        read_password(config.broker)
    (tmp_path / "pw").write_text("secret\nrest")
    assert read_password(config.broker) == "secret"
    assert read_password(load(write(SMALLEST)).broker) is None


def test_the_command_prints_or_checks_or_complains(write, capsys):
    path = str(write(SMALLEST))
    assert main(["run", "--config", path, "--print-config"]) == ExitCode.OK
    assert "warmup_rounds = 5" in capsys.readouterr().out
    assert main(["config", "--config", path]) == ExitCode.OK
    assert main(["run", "--config", str(write("[stor]"))]) == ExitCode.CONFIG
    assert capsys.readouterr().err.count("\n") == 1
