"""Scoring of rows with fixed weights in NumPy, with as few and as short calls as possible.

At 64 rows a call costs about as much as a layer's product, and twice as much when it has to repeat a scalar or a short
array over the rows. So constants come as long as a whole chunk, a column of ones that every hidden layer carries along
brings the biases into the products, and the softmax runs over the classes as rows, where reductions are additions of
whole vectors.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.floating[Any]]
Layers = list[tuple[Real, Real]]
"""Weight, shape ``(in, out)``, and bias, shape ``(out,)``, of each layer."""

CHUNK_ROWS = 128
"""Rows at once: their activations stay in the cache, and under the size from which the allocator maps memory anew."""


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
        (weight, bias), *rest = encoder
        one = bias.dtype.type(1.0)
        self._first = np.pad(weight, ((0, 0), (0, 1)))
        self._first_bias = np.tile(np.append(bias, one), (CHUNK_ROWS, 1))
        self._rest = [_with_bias(*layer, carry=True) for layer in rest]
        # Transposed: its product with the transposed code has the classes as rows.
        self._classifier = None if classifier is None else _with_bias(*classifier, carry=False).T.copy()
        self._decoder = [_with_bias(*layer, carry=True) for layer in decoder[:-1]]
        self._decoder += [_with_bias(*layer, carry=False) for layer in decoder[-1:]]
        widths = {matrix.shape[1] for matrix in (self._first, *self._rest, *self._decoder)}
        self._zeros = {width: np.zeros((CHUNK_ROWS, width), dtype=bias.dtype) for width in widths}
        self._ones = np.ones(0 if classifier is None else len(classifier[1]), dtype=bias.dtype)
        self._share = np.full(len(weight), one / len(weight))

    def score(self, x: Real) -> tuple[Real | None, Real | None]:
        """Return what the engine's ``infer`` does, of a few rows.

        Parameters
        ----------
        x
            Shape ``(n, D)``, at most ``CHUNK_ROWS`` rows.

        Returns
        -------
        probs, err
            Shape ``(n, K)`` and ``(n,)``; ``None`` without that head.
        """
        hidden = np.dot(x, self._first)
        hidden += self._first_bias[: len(x)]
        self._rectify(hidden)
        for matrix in self._rest:
            hidden = np.dot(hidden, matrix)
            self._rectify(hidden)
        probs = None if self._classifier is None else self._softmax(np.dot(self._classifier, hidden.T))
        if not self._decoder:
            return probs, None
        decoded = hidden
        for matrix in self._decoder[:-1]:
            decoded = np.dot(decoded, matrix)
            self._rectify(decoded)
        decoded = np.dot(decoded, self._decoder[-1])
        decoded -= x
        decoded *= decoded
        return probs, np.dot(decoded, self._share)

    def _rectify(self, activations: Real) -> None:
        np.maximum(activations, self._zeros[activations.shape[1]][: len(activations)], out=activations)

    def _softmax(self, by_class: Real) -> Real:
        """Return probabilities, shape ``(n, K)``, of logits, shape ``(K, n)``, which are overwritten."""
        by_class -= np.maximum.reduce(by_class, axis=0)
        np.exp(by_class, out=by_class)
        by_class /= np.dot(self._ones, by_class)
        return by_class.T


def _with_bias(weight: Real, bias: Real, *, carry: bool) -> Real:
    """Return weight and bias as one matrix for inputs that end in a one; ``carry`` hands the one on."""
    matrix = np.zeros((len(weight) + 1, len(bias) + carry), dtype=weight.dtype)
    matrix[:-1, : len(bias)] = weight
    matrix[-1, : len(bias)] = bias
    if carry:
        matrix[-1, -1] = 1.0
    return matrix
