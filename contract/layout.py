"""Shape of the two-headed net and the layout of its flat weight vector; plain data, cheap to import."""

from dataclasses import dataclass
from itertools import pairwise


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
    """

    inputs: int
    classes: int
    hidden: tuple[int, ...]
    train_batch: int

    def layers(self) -> tuple[tuple[str, int, int], ...]:
        """Return ``(name, fan in, fan out)`` of every dense layer in the order of the flat vector."""
        sizes = (self.inputs, *self.hidden)
        encoder = tuple((f"encoder{i}", a, b) for i, (a, b) in enumerate(pairwise(sizes)))
        mirrored = tuple(reversed(sizes))
        decoder = tuple((f"decoder{i}", a, b) for i, (a, b) in enumerate(pairwise(mirrored)))
        return (*encoder, ("classifier", self.hidden[-1], self.classes), *decoder)

    @property
    def n_parameters(self) -> int:
        """Length P of the flat weight vector."""
        return sum(a * b + b for _, a, b in self.layers())

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
