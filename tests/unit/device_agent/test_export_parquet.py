"""Parquet: the same values as the other formats, in bounded row groups."""

import io
import json
import sys

import pytest

from contract.exit_codes import ExitCode
from contract.features import SCHEMA_ID
from device_agent.errors import ConfigError
from device_agent.export.columns import COLUMNS, KINDS
from device_agent.export.parquet import ParquetWriter
from device_agent.export.text import JsonLinesWriter
from device_agent.flows.meter import FlowMeter
from tests.unit.device_agent.frames import A, B, batch, tcp, udp


def flows(n):
    """Return n flows and one more with two directions."""
    meter = FlowMeter()
    frames = [udp(sport=1_000 + i, payload=b"x" * i) for i in range(n)]
    frames += [tcp(src=A, dst=B), tcp(src=B, dst=A, sport=80, dport=40_000)]
    meter.feed(batch([(i / 10, frame) for i, frame in enumerate(frames)]))
    return meter.flush()


def written(*batches, rows_per_group=4):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet: pip install 'kinwatch[parquet]'")
    out = io.BytesIO()
    writer = ParquetWriter(out, rows_per_group)
    for one in batches:
        writer.write(one)
    writer.close()
    return parquet.ParquetFile(io.BytesIO(out.getvalue()))


def test_the_same_rows_as_json_lines():
    some = flows(12)
    out = io.StringIO()
    JsonLinesWriter(out).write(some)
    table = written(some).read()
    assert table.to_pylist() == [json.loads(text) for text in out.getvalue().splitlines()]
    assert tuple(table.column_names) == COLUMNS


def test_row_groups_are_of_one_size_however_records_come():
    some = flows(10)
    pieces = [some.select(slice(a, b)) for a, b in ((0, 1), (1, 3), (3, 3), (3, 11))]
    file = written(*pieces)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 3]
    assert file.read().equals(written(some).read())


def test_no_records_are_a_table_without_rows():
    file = written()
    assert file.read().num_rows == 0
    assert file.schema_arrow.metadata[b"kinwatch.feature_schema"].decode() == SCHEMA_ID
    kinds = {"whole": "int64", "real": "double", "text": "string"}
    assert {field.name: str(field.type) for field in file.schema_arrow} == {n: kinds[k] for n, k in KINDS.items()}


def test_without_pyarrow_the_line_that_installs_it_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'kinwatch\[parquet\]'") as caught:
        ParquetWriter(io.BytesIO())
    assert caught.value.exit_code == ExitCode.CONFIG
