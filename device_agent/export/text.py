"""Flow records as CSV and as JSON lines."""

import csv
import json
from typing import TextIO

from device_agent.export.columns import COLUMNS, columns
from device_agent.flows.records import FlowBatch


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._encode = json.JSONEncoder(separators=(",", ":")).encode

    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""
        encode = self._encode
        self._out.writelines(
            encode(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in zip(*columns(batch), strict=True)
        )

    def close(self) -> None:
        """Hand on what is buffered; the file stays open."""
        self._out.flush()


class CsvWriter:
    """A header line, then one line a record."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._csv = csv.writer(out, lineterminator="\n")
        self._csv.writerow(COLUMNS)

    def write(self, batch: FlowBatch) -> None:
        """Write all rows of a batch."""
        self._csv.writerows(zip(*columns(batch), strict=True))

    def close(self) -> None:
        """Hand on what is buffered; the file stays open."""
        self._out.flush()
