"""Scoring of rows with fixed weights in NumPy, with as few passes over the data as possible.

At 64 rows a pass costs about as much as a layer's product. A column of ones that every hidden layer carries along
brings the biases into the products; the classifier and the first layer of the decoder read the same code, so one
product does both; the softmax runs over the classes as rows, where reductions are additions of whole vectors.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX

Real = npt.NDArray[np.floating[Any]]
Layers = list[tuple[Real, Real]]
"""Weight, shape ``(in, out)``, and bias, shape ``(out,)``, of each layer."""


class ScoringPlan:
    """The matrices of one weight vector.

    Parameters
    ----------
    encoder
        Layers with a ReLU each.
    classifier
        The layer of the logits, ``None`` without a classifier.
    decoder
        Layers with a ReLU but for the last; none without a decoder.
    """

    def __init__(self, encoder: Layers, classifier: tuple[Real, Real] | None, decoder: Layers) -> None:
        first, *rest = encoder
        self._first = np.pad(first[0], ((0, 0), (0, 1))), np.append(first[1], first[1].dtype.type(1.0))
        self._rest = [_with_bias(weight, bias, carry=True) for weight, bias in rest]
        self._classifies = classifier is not None
        self._decoder = [_with_bias(weight, bias, carry=True) for weight, bias in decoder[1:-1]]
        self._decoder += [_with_bias(*decoder[-1], carry=False)] if len(decoder) > 1 else []
        heads = [_with_bias(*decoder[0], carry=len(decoder) > 1)] if decoder else []
        self._cut = heads[0].shape[1] if heads else 0
        heads += [_with_bias(*classifier, carry=False)] if classifier is not None else []
        self._heads = np.hstack(heads)

    def score(self, x: Real, probs: Real, err: Real) -> None:
        """Write what the engine's ``infer`` returns for a few rows.

        Parameters
        ----------
        x
            Shape ``(n, D)``.
        probs, err
            Shape ``(n, K)`` and ``(n,)``: written.
        """
        weight, bias = self._first
        hidden = x @ weight
        hidden += bias
        np.maximum(hidden, 0.0, out=hidden)
        for matrix in self._rest:
            hidden = hidden @ matrix
            np.maximum(hidden, 0.0, out=hidden)
        heads = hidden @ self._heads
        if self._classifies:
            _softmax(heads[:, self._cut :], probs)
        else:
            probs[:] = 0.0
            probs[:, BENIGN_INDEX] = 1.0
        if not self._cut:
            err[:] = 0.0
            return
        decoded = heads[:, : self._cut]
        for matrix in self._decoder:
            decoded = np.maximum(decoded, 0.0) @ matrix
        decoded = np.subtract(decoded, x)
        np.einsum("ij,ij->i", decoded, decoded, out=err)
        err /= x.shape[1]


def _with_bias(weight: Real, bias: Real, *, carry: bool) -> Real:
    """Return weight and bias as one matrix for inputs that end in a one; ``carry`` hands the one on."""
    matrix = np.zeros((len(weight) + 1, len(bias) + carry), dtype=weight.dtype)
    matrix[:-1, : len(bias)] = weight
    matrix[-1, : len(bias)] = bias
    if carry:
        matrix[-1, -1] = 1.0
    return matrix


def _softmax(logits: Real, probs: Real) -> None:
    by_class = np.ascontiguousarray(logits.T)
    by_class -= np.maximum.reduce(by_class, axis=0)
    np.exp(by_class, out=by_class)
    by_class /= np.add.reduce(by_class, axis=0)
    probs[:] = by_class.T
