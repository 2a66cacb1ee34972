"""The LiteRT engine; the only module of the agent that loads a LiteRT runtime."""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from threading import get_ident
from typing import Any

import numpy as np

from contract.layout import Layout
from device_agent.inference.engine import Evaluation, Floats, Gradient, Inference, Labels, as_inference, check_shapes

_RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
_CHUNK_ROWS = 1024
"""Rows per inference call: bounds the runtime's buffers."""


class RuntimeMissingError(RuntimeError):
    """No LiteRT runtime is installed, or the one that is does not load."""


class LiteRTEngine:
    """Engine on a stateless ``.tflite`` file.

    One object belongs to one thread: an interpreter that two threads share gives wrong results without an error.

    Parameters
    ----------
    layout
        The architecture the file was built for.
    blob
        The file. Its digest must have been checked before: older runtimes crash on damaged files.

    Raises
    ------
    RuntimeMissingError
        If no runtime can be imported.
    ValueError
        If the runtime refuses the file or a signature is missing.
    """

    def __init__(self, layout: Layout, blob: bytes) -> None:
        self._layout = layout
        self._owner: int | None = None
        runners = open_interpreter(blob, ("grad", "infer", "evaluate"))
        self._inputs = {name: frozenset(runner.get_input_details()) for name, runner in runners.items()}
        self._run = {name: signature_of(runner) for name, runner in runners.items()}

    @property
    def layout(self) -> Layout:
        """The architecture."""
        return self._layout

    @property
    def name(self) -> str:
        """``litert``."""
        return "litert"

    def gradient(
        self,
        theta: Floats,
        x: Floats,
        y: Labels,
        wc: Floats,
        wr: Floats,
        *,
        recon_weight: float,
        gamma: float = 0.0,
    ) -> Gradient:
        """Return the gradient of one batch; see :class:`~device_agent.inference.engine.Engine`.

        Shorter batches are padded with rows of weight 0, which changes nothing.
        """
        check_shapes(self._layout, theta, x, y, wc, wr)
        missing = self._layout.train_batch - len(x)
        if missing < 0:
            raise ValueError(f"a batch of {len(x)} rows is more than {self._layout.train_batch}")
        out = self._call(
            "grad",
            theta=theta,
            x=np.pad(x, ((0, missing), (0, 0))) if missing else x,
            y=np.pad(y, (0, missing)) if missing else y,
            wc=np.pad(wc, (0, missing)) if missing else wc,
            wr=np.pad(wr, (0, missing)) if missing else wr,
            recon_weight=_vector(recon_weight),
            gamma=_vector(gamma),
        )
        return Gradient(out["grad"], float(out.get("loss_class", 0.0)), float(out.get("loss_recon", 0.0)))

    def infer(self, theta: Floats, x: Floats) -> Inference:
        """Return probabilities and errors; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x)
        if 0 < len(x) <= _CHUNK_ROWS:
            return self._infer(theta, x)
        probs = np.empty((len(x), self._layout.classes), dtype=np.float32)
        err = np.empty(len(x), dtype=np.float32)
        for start in range(0, len(x), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            part = self._infer(theta, x[rows])
            probs[rows], err[rows] = part.probs, part.err
        return Inference(probs, err)

    def _infer(self, theta: Floats, x: Floats) -> Inference:
        out = self._call("infer", theta=theta, x=x)
        return as_inference(self._layout, len(x), out.get("probs"), out.get("err"))

    def evaluate(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats) -> Evaluation:
        """Return sums over rows; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x, y, wc, wr)
        names = ("loss_class_sum", "wc_sum", "loss_recon_sum", "wr_sum")
        sums = dict.fromkeys(names, 0.0)
        confusion = np.zeros((self._layout.classes, self._layout.classes))
        for start in range(0, len(x), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            out = self._call("evaluate", theta=theta, x=x[rows], y=y[rows], wc=wc[rows], wr=wr[rows])
            for name in names:
                sums[name] += float(out.get(name, 0.0))
            confusion += out.get("confusion", 0.0)
        if not self._layout.classifies:
            sums["wc_sum"] = float(wc[(y >= 0) & (y < self._layout.classes)].sum())
        if not self._layout.reconstructs:
            sums["wr_sum"] = float(wr.sum())
        return Evaluation(**sums, confusion=confusion)

    def _call(self, signature: str, **given: Any) -> dict[str, Any]:
        """Run a signature with those inputs that it has: a missing head has none.

        Raises
        ------
        RuntimeError
            If another thread than the first one calls.
        """
        caller = get_ident()
        if self._owner is None:
            self._owner = caller
        elif caller != self._owner:
            raise RuntimeError("an interpreter belongs to one thread; a second one needs an engine of its own")
        wanted = self._inputs[signature]
        if len(given) > len(wanted):
            given = {name: value for name, value in given.items() if name in wanted}
        result: dict[str, Any] = self._run[signature](**given)
        return result


class Signature:
    """A signature of an interpreter without what the runtime's own runner does anew at every call.

    The runner gives every input its shape and plans the memory each time, which takes a tenth of a training step;
    here that happens when a shape has changed. It reads the runner's parts, which every runtime so far has under the
    same names.

    Parameters
    ----------
    runner
        The runtime's ``SignatureRunner``; not to be called any more.

    Raises
    ------
    AttributeError
        If the runner is made of other parts.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner  # keeps the interpreter alive, and with it the file, which the runtime reads in place
        self._interpreter = runner._interpreter_wrapper  # noqa: SLF001
        self._subgraph = runner._subgraph_index  # noqa: SLF001
        self._inputs: dict[str, int] = dict(runner._inputs)  # noqa: SLF001
        self._outputs: tuple[tuple[str, int], ...] = tuple(runner._outputs)  # noqa: SLF001
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Return copies of the outputs by name.

        Raises
        ------
        ValueError
            If an input is missing, unknown, or has another type than the signature.
        RuntimeError
            If the runtime refuses a shape.
        """
        if given.keys() != self._inputs.keys():
            raise ValueError(f"the signature takes {', '.join(sorted(self._inputs))}")
        interpreter, subgraph = self._interpreter, self._subgraph
        shapes = {name: value.shape for name, value in given.items()}
        if shapes != self._shapes:
            self._shapes = {}
            for name, shape in shapes.items():
                interpreter.ResizeInputTensor(self._inputs[name], np.array(shape, dtype=np.int32), False, subgraph)
            interpreter.AllocateTensors(subgraph)
            self._shapes = shapes
        for name, value in given.items():
            interpreter.SetTensor(self._inputs[name], value, subgraph)
        interpreter.Invoke(subgraph)
        return {name: interpreter.GetTensor(index, subgraph) for name, index in self._outputs}


def signature_of(runner: Any) -> Callable[..., dict[str, Any]]:
    """Return the runner's signature to be called; by the runner itself if it is made of unknown parts."""
    try:
        return Signature(runner)
    except AttributeError:
        call: Callable[..., dict[str, Any]] = runner
        return call


@lru_cache(maxsize=8)
def _vector(value: float) -> Floats:
    """Return a vector of one element: an input without dimensions is what LiteRT on aarch64 dies of."""
    vector = np.array([value], dtype=np.float32)
    vector.flags.writeable = False
    return vector


def open_interpreter(blob: bytes, signatures: tuple[str, ...]) -> dict[str, Any]:
    """Return the runners of a file's signatures, on an interpreter of their own with one thread.

    Raises
    ------
    RuntimeMissingError
        If no runtime can be imported.
    ValueError
        If the runtime refuses the file or a signature is missing.
    """
    interpreter_class = _interpreter_class()
    try:
        interpreter = interpreter_class(model_content=blob, num_threads=1)
        # Before the first runner, or tflite-runtime leaves its fast kernels off.
        interpreter.allocate_tensors()
        return {name: interpreter.get_signature_runner(name) for name in signatures}
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the LiteRT runtime refuses the artifact: {error}") from error


def _interpreter_class() -> Any:
    reasons = []
    for module in _RUNTIMES:
        try:
            return import_module(module).Interpreter
        except (ImportError, AttributeError) as error:
            reasons.append(f"{module}: {error}")
    raise RuntimeMissingError("no LiteRT runtime: " + "; ".join(reasons))
