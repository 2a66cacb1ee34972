"""Our flows beside Zeek's and CICFlowMeter's tables: no row is left unexplained."""

import os
from pathlib import Path

import pytest

from benchmarks.flow_peers import beside_cicflowmeter, beside_zeek, page

DATA = Path(os.environ.get("KINWATCH_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}; set KINWATCH_DATA"),
]


def test_zeek_rows_are_joined():
    table = DATA / "csv" / "iot23" / "CTU-Malware-Capture-8-1-labeled.csv"
    found = beside_zeek.compare(table, next((DATA / "pcap" / "iot23_8-1").glob("*.pcap")))
    assert (found["rows"], found["rows joined"]) == (10_403, 10_403)
    assert found["malicious rows"] == 8_222
    assert found["unexplained"] == found["flows_without_a_row"] == found["flows_with_rows_of_two_labels"] == 0
    assert found["five_tuples_with_other_packets_or_bytes"] == 0


def test_cicflowmeter_rows_are_equal_or_explained():
    table = next((DATA / "csv" / "allkahra_cicflow").glob("*.csv"))
    found = beside_cicflowmeter.compare(table, DATA / "pcap" / "allkahra")
    assert (found["rows"], found["unexplained"]) == (5_789, [])
    assert found["equal"] > 5_700
    assert "| unexplained | 0 |" in page._cic(found)
