"""Flow records as Parquet, by pyarrow, which is the extra ``parquet`` and loaded only here."""

from typing import Any, BinaryIO

from contract.features import SCHEMA_ID
from device_agent.errors import ConfigError
from device_agent.export.columns import KINDS, Kind, columns
from device_agent.flows.records import FlowBatch

ROWS_PER_GROUP = 16_384
"""Records that are gathered before they are written: about 10 MB of columns, whatever the length of the capture."""


class ParquetWriter:
    """Row groups of ``ROWS_PER_GROUP`` records; the last one, and the index that makes the file readable, at ``close``.

    Parameters
    ----------
    out
        A binary file; the caller closes it.

    Raises
    ------
    ConfigError
        If pyarrow is not installed.
    """

    def __init__(self, out: BinaryIO, rows_per_group: int = ROWS_PER_GROUP) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - optional, and 60 MB of memory
            from pyarrow.parquet import ParquetWriter as ArrowWriter  # noqa: PLC0415
        except ImportError:
            raise ConfigError("--format parquet: pyarrow is missing; pip install 'kinwatch[parquet]'") from None
        self._arrow = pa
        types: dict[Kind, Any] = {"whole": pa.int64(), "real": pa.float64(), "text": pa.string()}
        self._schema = pa.schema(
            [pa.field(name, types[kind], nullable=False) for name, kind in KINDS.items()],
            metadata={"kinwatch.feature_schema": SCHEMA_ID},
        )
        self._rows_per_group = rows_per_group
        self._waiting: list[FlowBatch] = []
        self._n_waiting = 0
        self._writer = ArrowWriter(out, self._schema, compression="zstd")

    def write(self, batch: FlowBatch) -> None:
        """Take all rows of a batch."""
        at = 0
        while self._n_waiting + len(batch) - at >= self._rows_per_group:
            stop = at + self._rows_per_group - self._n_waiting
            self._waiting.append(FlowBatch(batch.identity[at:stop], batch.features[at:stop]))
            self._write_group()
            at = stop
        if at < len(batch):
            self._waiting.append(FlowBatch(batch.identity[at:], batch.features[at:]))
            self._n_waiting += len(batch) - at

    def close(self) -> None:
        """Write what waits and the index; the file stays open."""
        if self._waiting:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        batch = FlowBatch.concat(self._waiting)
        self._waiting, self._n_waiting = [], 0
        named = zip(columns(batch), self._schema, strict=True)
        arrays = [self._arrow.array(column, type=field.type) for column, field in named]
        table = self._arrow.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=self._rows_per_group)
