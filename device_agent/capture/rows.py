"""Frames of one width to frames one behind the other."""

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


_FEW_ROWS = 4_096
"""Rows copied at once, so that what lies between stays in the cache."""


def copy_rows(source: U8, starts: I64, lengths: I64, width: int, out: U8) -> None:
    """Copy pieces of a buffer one behind the other, each by one copy of fixed size as in ``pack_rows``.

    Parameters
    ----------
    source
        uint8, C-contiguous, with ``width`` bytes from each start on.
    starts, lengths
        int64, shape ``(n,)``: where each piece begins, and its bytes, 0 to ``width``.
    width
        Bytes copied of each piece; the next one overwrites what is too much.
    out
        uint8, C-contiguous, at least ``sum(lengths) + width`` long; what follows the last piece is arbitrary.
    """
    kind = f"V{width}"
    pieces = np.ndarray((len(source) - width + 1,), dtype=kind, buffer=source, strides=(1,))
    places = np.ndarray((len(out) - width + 1,), dtype=kind, buffer=out, strides=(1,))
    to = np.cumsum(lengths) - lengths
    for low in range(0, len(starts), _FEW_ROWS):
        places[to[low : low + _FEW_ROWS]] = pieces[starts[low : low + _FEW_ROWS]]


def pack_rows(rows: U8, lengths: I64) -> tuple[U8, I64]:
    """Put the first bytes of each row one behind the other.

    Parameters
    ----------
    rows
        uint8, shape ``(n, width)``, C-contiguous.
    lengths
        int64, shape ``(n,)``, 0 to ``width``: bytes to keep of each row.

    Returns
    -------
    data, offsets
        As in ``PacketBatch``.

    Notes
    -----
    Each row is written whole at its place, in order, so that the next one overwrites what is too much: one copy of
    fixed size per row, an order of magnitude faster than gathering bytes.
    """
    width = rows.shape[1]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    out = np.empty(int(offsets[-1]) + width, dtype=np.uint8)
    places = np.ndarray((len(out) - width + 1,), dtype=f"V{width}", buffer=out, strides=(1,))
    places[offsets[:-1]] = rows.view(f"V{width}")[:, 0]
    return out[: offsets[-1]], offsets
