"""Shape of a net and the layout of its flat weight vector; plain data, cheap to import."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Heads = Literal["both", "classifier", "reconstruction"]
"""Which heads a net has: both, only the classifier, or only the decoder (a pure autoencoder)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths of encoder, classifier and decoder, without ids.

    Attributes
    ----------
    inputs, classes
        D and K.
    hidden
        Widths of the encoder, outermost first; the decoder mirrors it.
    train_batch
        Static batch of the ``grad`` signature.
    heads
        Which heads there are.
    """

    inputs: int
    classes: int
    hidden: tuple[int, ...]
    train_batch: int
    heads: Heads = "both"

    @property
    def classifies(self) -> bool:
        """Whether there is a classifier."""
        return self.heads != "reconstruction"

    @property
    def reconstructs(self) -> bool:
        """Whether there is a decoder."""
        return self.heads != "classifier"

    def layers(self) -> tuple[tuple[str, int, int], ...]:
        """Return ``(name, fan in, fan out)`` of every dense layer in the order of the flat vector."""
        sizes = (self.inputs, *self.hidden)
        encoder = tuple((f"encoder{i}", a, b) for i, (a, b) in enumerate(pairwise(sizes)))
        mirrored = tuple(reversed(sizes))
        decoder = tuple((f"decoder{i}", a, b) for i, (a, b) in enumerate(pairwise(mirrored)))
        classifier = (("classifier", self.hidden[-1], self.classes),) if self.classifies else ()
        return (*encoder, *classifier, *(decoder if self.reconstructs else ()))

    @property
    def n_parameters(self) -> int:
        """Length P of the flat weight vector."""
        return _n_parameters(self)

    def slices(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """Return where each tensor lives in the flat vector.

        Returns
        -------
        dict
            ``"<layer>.weight"`` (shape ``(in, out)``, row-major) and ``"<layer>.bias"`` (shape ``(out,)``), each with
            its slice and shape, in order.
        """
        result: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, a, b in self.layers():
            result[f"{name}.weight"] = (slice(start, start + a * b), (a, b))
            result[f"{name}.bias"] = (slice(start + a * b, start + a * b + b), (b,))
            start += a * b + b
        return result


@lru_cache(maxsize=64)
def _n_parameters(layout: Layout) -> int:
    """Return P; engines ask at every call."""
    return sum(a * b + b for _, a, b in layout.layers())
