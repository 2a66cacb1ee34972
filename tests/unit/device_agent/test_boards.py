"""Board files of the repository, faults in them, and detection by the device tree."""

from pathlib import Path

import pytest

from device_agent.boards import Budgets, detect_board, load_board
from device_agent.errors import ConfigError

BOARD_FILES = sorted((Path(__file__).parents[3] / "firmware_configs" / "boards").glob("*.toml"))


def test_the_repository_has_board_files():
    assert {path.stem for path in BOARD_FILES} >= {"zero2w", "pi4b", "pi5", "generic-arm64"}


@pytest.mark.parametrize("path", BOARD_FILES, ids=lambda path: path.stem)
def test_every_board_file_of_the_repository_loads(path):
    board = load_board(path)
    assert board.budget.trainer_memory_mb < board.facts.ram_mb


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('name = "x"\n[budget]\nbufer_rows = 9\n', "unknown key budget.bufer_rows; did you mean budget.buffer_rows?"),
        ('name = "x"\n[budget]\nbuffer_rows = 9\n', "budget.buffer_rows: input should be greater than or equal to 64"),
        ("[budget]\n", "name is missing"),
        ("name = \n", "not TOML"),
    ],
)
def test_a_fault_is_one_line(tmp_path, text, wanted):
    path = tmp_path / "board.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_device_tree_gives_the_name_and_the_generic_budget_holds(tmp_path):
    model = tmp_path / "model"
    model.write_bytes(b"Raspberry Pi Zero 2 W Rev 1.0\x00")
    board = detect_board(model)
    assert board.name == "Raspberry Pi Zero 2 W Rev 1.0"
    assert board.budget == Budgets()


def test_without_a_device_tree_the_board_is_generic(tmp_path):
    assert detect_board(tmp_path / "absent").name.startswith("generic ")
