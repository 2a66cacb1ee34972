"""Labelled captures: the sidecar is checked, the parts are told apart, marks become messages."""

import json
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapWriter

from contract.exit_codes import ExitCode
from testbed.captures.errors import CaptureInputError, LabelsInputError
from testbed.captures.loader import load_capture, load_captures
from testbed.captures.sidecar import LabelSidecar, read_sidecar, sidecar_path, write_sidecar

T0_S = 1_700_000_000


def labels(**change: Any) -> dict[str, Any]:
    mark = {"start_s": 1.0, "end_s": 2.5, "label": "scan", "hosts": ["10.20.0.66"], "proto": 6, "ports": [23]}
    return {"version": 1, "device_id": "cam-1", "profile": "camera", "exam_from_s": 3.0, "marks": [mark]} | change


def capture(folder: Path, name: str = "cam-1", seconds: tuple[float, ...] = (0, 1, 2, 3, 4), **change: Any) -> Path:
    path = folder / f"{name}.pcap"
    writer = RawPcapWriter(str(path), linktype=1)
    writer.write_header(None)
    for second in seconds:
        writer.write_packet(bytes([int(second)]) * 60, sec=T0_S + int(second), usec=round(second % 1 * 1e6))
    writer.close()
    sidecar_path(path).write_text(json.dumps(labels(**change)))
    return path


def test_the_parts_meet_at_the_exam_start(tmp_path: Path) -> None:
    loaded = load_capture(capture(tmp_path))
    assert [p.data[0] for p in loaded.packets("learn")] == [0, 1, 2]
    assert [p.data[0] for p in loaded.packets("exam")] == [3, 4]
    assert [p.data[0] for p in loaded.packets()] == [0, 1, 2, 3, 4]


def test_marks_and_packets_shift_together(tmp_path: Path) -> None:
    loaded = load_capture(capture(tmp_path))
    marks = loaded.mark_set("run-1", shift_us=5)
    (rule,) = marks.rules
    origin_us = T0_S * 1_000_000 + 5
    assert next(loaded.packets(shift_us=5)).ts_us == origin_us
    assert (rule.start_us, rule.end_us) == (origin_us + 1_000_000, origin_us + 2_500_000)
    assert (rule.label, rule.hosts, rule.proto, rule.ports) == ("scan", ("10.20.0.66",), 6, (23,))
    learn, exam = marks.coverage
    assert (learn.split, learn.start_us, learn.end_us) == ("learn", origin_us, origin_us + 2_999_999)
    assert (exam.split, exam.start_us, exam.end_us) == ("exam", origin_us + 3_000_000, origin_us + 4_000_000)
    assert marks.device_id == "cam-1"


def test_a_folder_is_read_in_order_of_device_ids(tmp_path: Path) -> None:
    capture(tmp_path, "a", device_id="z-1")
    capture(tmp_path, "b", device_id="a-1")
    (tmp_path / "notes.txt").write_text("not a capture")
    assert [loaded.device_id for loaded in load_captures(tmp_path)] == ["a-1", "z-1"]


def test_a_written_sidecar_reads_back(tmp_path: Path) -> None:
    sidecar = LabelSidecar.model_validate(labels(), strict=False)
    write_sidecar(sidecar, tmp_path / "x.pcap.gz")
    assert (tmp_path / "x.labels.json").is_file()
    assert read_sidecar(tmp_path / "x.pcap") == sidecar


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"version": 2}, "version"),
        ({"device_id": "Cam 1"}, "device_id"),
        ({"exam_from_s": -1.0}, "exam_from_s"),
        ({"colour": "red"}, "colour"),
        ({"default_label": "weather"}, "default_label"),
        ({"marks": [{"start_s": 2.0, "end_s": 1.0, "label": "scan"}]}, "before it starts"),
        ({"marks": [{"start_s": 0.0, "end_s": 1.0, "label": "magic"}]}, "not in the taxonomy"),
        ({"marks": [{"start_s": 0.0, "end_s": 1.0, "label": "scan", "hosts": ["cam"]}]}, "marks.0.hosts.0"),
        ({"exam_from_s": 100.0}, "the capture ends at 4.0 s"),
    ],
)
def test_a_wrong_sidecar_names_file_and_culprit(tmp_path: Path, change: dict[str, Any], culprit: str) -> None:
    with pytest.raises(LabelsInputError, match=culprit) as caught:
        load_capture(capture(tmp_path, **change))
    assert caught.value.code is ExitCode.LABELS_INPUT
    assert "cam-1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_sidecar_is_told(tmp_path: Path) -> None:
    path = capture(tmp_path)
    sidecar_path(path).write_text("{")
    with pytest.raises(LabelsInputError, match=r"labels\.json"):
        load_capture(path)
    sidecar_path(path).unlink()
    with pytest.raises(LabelsInputError, match="cannot read the labels of cam-1"):
        load_capture(path)


def test_a_folder_without_captures_an_empty_capture_and_a_double_device_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureInputError, match="no such folder"):
        load_captures(tmp_path / "none")
    with pytest.raises(CaptureInputError, match="no captures here"):
        load_captures(tmp_path)
    with pytest.raises(CaptureInputError, match="holds no packet"):
        load_capture(capture(tmp_path, seconds=()))
    capture(tmp_path, "cam-1")
    capture(tmp_path, "other")
    with pytest.raises(LabelsInputError, match="one capture per device"):
        load_captures(tmp_path)
