"""Scoring with an int8 export of one release: inference alone, on LiteRT alone.

The agent detects with weights that change at run time, which constant weights cannot do; it does not use this. It is
for programs of fixed function, and for measuring what quantisation costs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contract.export import ExportManifest
from contract.features import SCHEMA_ID
from contract.layout import Layout
from contract.taxonomy import BENIGN_INDEX
from device_agent.inference.engine import Floats, Inference
from device_agent.inference.litert import open_interpreter
from device_agent.inference.opening import EngineError, check_bytes

_CHUNK_ROWS = 1024


def read_export(tflite: Path, *, schema_id: str = SCHEMA_ID) -> "tuple[ExportManifest, bytes]":
    """Return manifest and bytes of an export after checking schema, size and digest, in this order.

    Raises
    ------
    EngineError
        If a file is missing, damaged, or made for another feature schema.
    """
    try:
        manifest = ExportManifest.model_validate_json(tflite.with_suffix(".json").read_bytes())
        blob = tflite.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValidationError as error:
        raise EngineError(f"{tflite.with_suffix('.json')} is no export manifest: {error.errors()[0]['msg']}") from error
    if manifest.spec.schema_id != schema_id:
        raise EngineError(f"the export is made for schema {manifest.spec.schema_id[:12]}, not {schema_id[:12]}")
    check_bytes("export", blob, manifest)
    return manifest, blob


class Int8Scorer:
    """Scores rows with constant weights; one object belongs to one thread.

    Parameters
    ----------
    layout
        The architecture.
    blob
        The file, checked by :func:`read_export`.

    Raises
    ------
    RuntimeMissingError
        If no runtime can be imported.
    ValueError
        If the runtime refuses the file or its signature is missing.
    """

    def __init__(self, layout: Layout, blob: bytes) -> None:
        self._layout = layout
        self._run: Any = open_interpreter(blob, ("infer",))["infer"]

    def infer(self, x: Floats) -> Inference:
        """Return probabilities and reconstruction errors of model inputs, shape ``(n, D)``; softmax and error in float.

        Raises
        ------
        ValueError
            If the rows have another width.
        """
        if x.ndim != 2 or x.shape[1] != self._layout.inputs:
            raise ValueError(f"rows have shape {x.shape}, the layout wants (n, {self._layout.inputs})")
        probs = np.zeros((len(x), self._layout.classes), dtype=np.float32)
        err = np.zeros(len(x), dtype=np.float32)
        if not self._layout.classifies:
            probs[:, BENIGN_INDEX] = 1.0
        for start in range(0, len(x), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            out: dict[str, npt.NDArray[np.float32]] = self._run(x=x[rows])
            if self._layout.classifies:
                odds = np.exp(out["logits"] - out["logits"].max(axis=1, keepdims=True))
                np.divide(odds, odds.sum(axis=1, keepdims=True), out=probs[rows])
            if self._layout.reconstructs:
                residual = out["reconstruction"] - x[rows]
                np.einsum("ij,ij->i", residual, residual, out=err[rows])
        err /= self._layout.inputs
        return Inference(probs, err)
