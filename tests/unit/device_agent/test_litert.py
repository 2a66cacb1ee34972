"""The LiteRT engine against the NumPy engine, on the packaged artifact."""

import gc
import threading

import numpy as np
import pytest

from contract.model import AUTOENCODER_SPEC, CLASSIFIER_SPEC, DEFAULT_SPEC
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.select import load_artifact
from device_agent.training.optimizer import Optimizer, OptimizerSettings
from tests.unit.device_agent.nets import REAL, batch, relative

litert = pytest.importorskip("device_agent.inference.litert")


@pytest.fixture
def engine():
    try:
        return litert.LiteRTEngine(REAL, load_artifact(DEFAULT_SPEC))
    except litert.RuntimeMissingError as error:
        pytest.skip(f"no LiteRT here: {error}")


@pytest.fixture
def oracle():
    return NumpyEngine(REAL)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_equals_numpy(engine, oracle, seed):
    b = batch(REAL, REAL.train_batch, seed)
    ours, theirs = (e.gradient(*b.args(), recon_weight=0.7) for e in (engine, oracle))
    assert relative(ours.grad, theirs.grad) < 1e-5
    assert ours.loss_class == pytest.approx(theirs.loss_class, rel=1e-5)
    assert ours.loss_recon == pytest.approx(theirs.loss_recon, rel=1e-5)


@pytest.mark.parametrize("n", [1, 5, 31])
def test_padding_changes_nothing(engine, oracle, n):
    """A short batch gives what NumPy gives on the rows alone."""
    b = batch(REAL, n, seed=n)
    ours, theirs = (e.gradient(*b.args(), recon_weight=0.7) for e in (engine, oracle))
    assert relative(ours.grad, theirs.grad) < 1e-5


def test_more_rows_than_the_batch_are_refused(engine):
    with pytest.raises(ValueError, match="more than 32"):
        engine.gradient(*batch(REAL, 33).args(), recon_weight=1.0)


@pytest.mark.parametrize("odd", [-1, REAL.classes, 99])
def test_a_label_outside_the_classes_counts_nothing(engine, oracle, odd):
    b = batch(REAL, 8)
    y = np.full(8, odd, np.int32)
    assert not engine.gradient(b.theta, b.x, y, b.wc, b.wr, recon_weight=0.0).grad.any()
    assert engine.evaluate(b.theta, b.x, y, b.wc, b.wr).confusion.sum() == 0
    ours, theirs = (e.evaluate(b.theta, b.x, y, b.wc, b.wr) for e in (engine, oracle))
    assert ours.wc_sum == theirs.wc_sum == 0.0


@pytest.mark.parametrize("n", [0, 1, 64, 1500])
def test_infer_and_evaluate_equal_numpy(engine, oracle, n):
    b = batch(REAL, n, seed=n)
    ours, theirs = (e.infer(b.theta, b.x) for e in (engine, oracle))
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-6)
    np.testing.assert_allclose(ours.err, theirs.err, rtol=1e-5)
    ours, theirs = (e.evaluate(*b.args()) for e in (engine, oracle))
    np.testing.assert_array_equal(ours.confusion, theirs.confusion)
    for field in ("loss_class_sum", "wc_sum", "loss_recon_sum", "wr_sum"):
        assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=1e-4)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_weights_after_twenty_steps_equal_numpy(engine, oracle, kind):
    """Twenty steps are few enough that rounding is not blown up by a ReLU that flips."""
    settings = OptimizerSettings(kind=kind, learning_rate=1e-2, proximal_mu=0.1, clip_norm=5.0, weight_decay=0.01)
    results = []
    for e in (engine, oracle):
        optimizer = Optimizer(batch(REAL, 1).theta, settings)
        for step in range(20):
            b = batch(REAL, 32, seed=100 + step)
            optimizer.step(e.gradient(optimizer.theta, *b.args()[1:], recon_weight=0.5).grad)
        results.append(optimizer.theta)
    np.testing.assert_allclose(results[0], results[1], atol=2e-5)
    assert np.abs(results[0] - batch(REAL, 1).theta).max() > 1e-2


def test_weights_that_are_read_only_are_accepted(engine):
    """The trainer and a decoded frame hand over such arrays."""
    b = batch(REAL, 4)
    for array in b.args():
        array.flags.writeable = False
    engine.gradient(*b.args(), recon_weight=1.0)
    engine.infer(b.theta, b.x)


def test_results_do_not_change_with_later_calls(engine):
    """What a call returned is its caller's, not a window into the runtime's memory."""
    first, second = batch(REAL, 32, 1), batch(REAL, 32, 2)
    out = engine.gradient(*first.args(), recon_weight=1.0)
    kept = out.grad.copy()
    engine.gradient(*second.args(), recon_weight=1.0)
    np.testing.assert_array_equal(out.grad, kept)


def test_two_threads_with_an_engine_each_are_right(oracle):
    """One interpreter per thread is the rule; with that the results are exact."""
    try:
        engines = [litert.LiteRTEngine(REAL, load_artifact(DEFAULT_SPEC)) for _ in range(2)]
    except litert.RuntimeMissingError as error:
        pytest.skip(f"no LiteRT here: {error}")
    wrong = []

    def work(engine, seed):
        b = batch(REAL, 16, seed)
        expected = oracle_results[seed]
        seen = (engine.infer(b.theta, b.x).probs for _ in range(300))
        wrong.extend(seed for probs in seen if not np.allclose(probs, expected, atol=1e-6))

    oracle_results = {seed: oracle.infer(batch(REAL, 16, seed).theta, batch(REAL, 16, seed).x).probs for seed in (1, 2)}
    threads = [threading.Thread(target=work, args=pair) for pair in zip(engines, (1, 2), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_the_runtime_refuses_is_one_clear_error():
    try:
        with pytest.raises(ValueError, match="refuses the artifact"):
            litert.LiteRTEngine(REAL, b"\x1c\x00\x00\x00TFL3" + bytes(100))
    except litert.RuntimeMissingError as error:
        pytest.skip(f"no LiteRT here: {error}")


@pytest.mark.parametrize("spec", [CLASSIFIER_SPEC, AUTOENCODER_SPEC], ids=lambda spec: spec.name)
def test_the_nets_of_one_head_equal_numpy(spec):
    ours, theirs = litert.LiteRTEngine(spec.layout, load_artifact(spec)), NumpyEngine(spec.layout)
    b = batch(spec.layout, 20, seed=4)
    for gamma in (0.0, 2.0):
        a, z = (e.gradient(*b.args(), recon_weight=0.7, gamma=gamma) for e in (ours, theirs))
        assert relative(a.grad, z.grad) < 1e-5
        assert (a.loss_class, a.loss_recon) == pytest.approx((z.loss_class, z.loss_recon), rel=1e-5)
    seen, wanted = (e.infer(b.theta, b.x) for e in (ours, theirs))
    np.testing.assert_allclose(seen.probs, wanted.probs, atol=1e-6)
    np.testing.assert_allclose(seen.err, wanted.err, rtol=1e-5)
    sums, expected = (e.evaluate(*b.args()) for e in (ours, theirs))
    assert np.array_equal(sums.confusion, expected.confusion)
    assert (sums.wc_sum, sums.wr_sum) == pytest.approx((expected.wc_sum, expected.wr_sum))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_gradient_equals_numpy(engine, oracle, gamma):
    b = batch(REAL, REAL.train_batch, seed=9)
    ours, theirs = (e.gradient(*b.args(), recon_weight=0.7, gamma=gamma) for e in (engine, oracle))
    assert relative(ours.grad, theirs.grad) < 1e-5
    assert ours.loss_class == pytest.approx(theirs.loss_class, rel=1e-5)


def runners(signatures=("grad", "infer", "evaluate")):
    try:
        return litert.open_interpreter(load_artifact(DEFAULT_SPEC), signatures)
    except litert.RuntimeMissingError as error:
        pytest.skip(f"no LiteRT here: {error}")


def test_a_signature_gives_what_the_runtimes_own_runner_gives_to_the_last_bit():
    """Sizes change back and forth, and other signatures run in between."""
    ours = {name: litert.signature_of(runner) for name, runner in runners().items()}
    assert all(isinstance(signature, litert.Signature) for signature in ours.values())
    theirs = runners()
    for turn, n in enumerate([5, 64, 64, 1, 200, 64, 1]):
        rows, step = batch(REAL, n, seed=turn), batch(REAL, REAL.train_batch, seed=50 + turn)
        factors = {"recon_weight": np.array([0.5], np.float32), "gamma": np.array([turn / 2.0], np.float32)}
        calls = {
            "infer": {"theta": rows.theta, "x": rows.x},
            "grad": dict(zip(("theta", "x", "y", "wc", "wr"), step.args(), strict=True)) | factors,
            "evaluate": dict(zip(("theta", "x", "y", "wc", "wr"), rows.args(), strict=True)),
        }
        for name, given in calls.items():
            seen, wanted = ours[name](**given), theirs[name](**given)
            assert seen.keys() == wanted.keys()
            assert all(np.array_equal(seen[key], wanted[key]) for key in wanted)


def test_a_call_that_the_runtime_refuses_does_not_spoil_the_next():
    signature, oracle = litert.signature_of(runners(("infer",))["infer"]), runners(("infer",))["infer"]
    b = batch(REAL, 4)
    with pytest.raises(ValueError, match="takes theta, x"):
        signature(theta=b.theta)
    for _ in range(2):  # the second time it must not take the shapes for planned
        with pytest.raises(RuntimeError, match=r"allocate|prepare"):
            signature(theta=b.theta[:-1], x=b.x)
    with pytest.raises(ValueError, match=r"(?i)type"):
        signature(theta=b.theta, x=b.x.astype(np.float64))
    assert np.array_equal(signature(theta=b.theta, x=b.x)["err"], oracle(theta=b.theta, x=b.x)["err"])


def test_a_runner_of_unknown_parts_is_called_itself():
    class Runner:
        def __call__(self, **given):
            return given

    assert litert.signature_of(Runner())(x=1) == {"x": 1}


def test_an_engine_keeps_its_file_while_it_lives():
    """The runtime reads the file where it lies; a freed one is a crash or nonsense."""
    b = batch(REAL, 8)
    try:
        engine = litert.LiteRTEngine(REAL, bytes(bytearray(load_artifact(DEFAULT_SPEC))))
    except litert.RuntimeMissingError as error:
        pytest.skip(f"no LiteRT here: {error}")
    gc.collect()
    blocks = [bytes([7]) * 50_000 for _ in range(50)]
    np.testing.assert_allclose(engine.infer(b.theta, b.x).err, NumpyEngine(REAL).infer(b.theta, b.x).err, rtol=1e-5)
    assert len(blocks) == 50
