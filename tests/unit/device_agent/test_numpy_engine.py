"""The NumPy engine against numerical differentiation and plain definitions."""

import numpy as np
import pytest

from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.scoring import CHUNK_ROWS
from tests.unit.device_agent.nets import AUTOENCODER, CLASSIFIER, DEEP, REAL, SHALLOW, TINY, batch, relative


def joint_loss(engine, b, recon_weight, gamma):
    out = engine.gradient(*b.args(), recon_weight=recon_weight, gamma=gamma)
    return out.loss_class + recon_weight * out.loss_recon


def wide(b):
    """The same rows in float64."""
    return type(b)(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in b.args()))


@pytest.mark.parametrize("gamma", [0.0, 2.0, 0.5], ids=["cross entropy", "focal 2", "focal 0.5"])
@pytest.mark.parametrize(
    "layout", [TINY, DEEP, SHALLOW, CLASSIFIER, AUTOENCODER], ids=["two", "three", "one", "classifier", "autoencoder"]
)
def test_gradient_equals_numerical_differentiation(layout, gamma):
    """Central differences in float64 agree in every parameter."""
    engine, b = NumpyEngine(layout), wide(batch(layout, 12, seed=3))
    grad = engine.gradient(*b.args(), recon_weight=0.7, gamma=gamma).grad
    numeric = np.empty_like(grad)
    for i in range(len(grad)):
        losses = []
        for sign in (1, -1):
            theta = b.theta.copy()
            theta[i] += sign * 1e-6
            losses.append(joint_loss(engine, type(b)(theta, *b.args()[1:]), 0.7, gamma))
        numeric[i] = (losses[0] - losses[1]) / 2e-6
    assert relative(grad, numeric) < 1e-6


def test_losses_are_the_weighted_means_of_the_contract():
    """Both losses follow from ``infer`` by their definition."""
    engine, b = NumpyEngine(TINY), batch(TINY, 9)
    out, seen = engine.gradient(*b.args(), recon_weight=0.3), engine.infer(b.theta, b.x)
    known = b.y >= 0
    entropy = -np.log(seen.probs[known, b.y[known]])
    assert out.loss_class == pytest.approx((entropy * b.wc[known]).sum() / b.wc[known].sum(), rel=1e-5)
    assert out.loss_recon == pytest.approx((seen.err * b.wr).sum() / b.wr.sum(), rel=1e-5)


@pytest.mark.parametrize("odd", [-1, 4, 99])
def test_a_label_outside_the_classes_counts_nothing_for_the_classifier(odd):
    """Such rows give the same class gradient as rows of class weight 0, whatever their weight says."""
    engine, b = NumpyEngine(TINY), batch(TINY, 6)
    y, wc = np.full(6, 1, np.int32), np.ones(6, np.float32)
    y[2:] = odd
    silent = np.where(y == 1, wc, np.float32(0))
    first = engine.gradient(b.theta, b.x, y, wc, b.wr, recon_weight=0.0)
    second = engine.gradient(b.theta, b.x, np.ones(6, np.int32), silent, b.wr, recon_weight=0.0)
    np.testing.assert_allclose(first.grad, second.grad, atol=1e-7)
    assert np.abs(first.grad).max() > 0


def test_no_weight_at_all_gives_no_gradient():
    engine, b = NumpyEngine(TINY), batch(TINY, 4)
    zero = np.zeros(4, np.float32)
    out = engine.gradient(b.theta, b.x, b.y, zero, zero, recon_weight=1.0)
    assert not out.grad.any()
    assert out.loss_class == out.loss_recon == 0.0


def test_reconstruction_weight_zero_leaves_the_decoder_alone():
    engine, b = NumpyEngine(TINY), batch(TINY, 8)
    grad = engine.gradient(*b.args(), recon_weight=0.0).grad
    for name, (where, _) in TINY.slices().items():
        assert grad[where].any() == (not name.startswith("decoder")), name


def test_evaluate_adds_up_over_any_cut_of_the_rows():
    """Sums of two parts are the sums of the whole; the confusion counts each labelled row once."""
    engine, b = NumpyEngine(TINY), batch(TINY, 30)
    whole = engine.evaluate(*b.args())
    parts = [engine.evaluate(*b.rows(rows).args()) for rows in (slice(0, 11), slice(11, 30))]
    for field in ("loss_class_sum", "wc_sum", "loss_recon_sum", "wr_sum"):
        assert getattr(whole, field) == pytest.approx(sum(getattr(p, field) for p in parts), rel=1e-5)
    np.testing.assert_array_equal(whole.confusion, parts[0].confusion + parts[1].confusion)
    np.testing.assert_array_equal(whole.confusion.sum(axis=1), np.bincount(b.y[b.y >= 0], minlength=TINY.classes))


def test_confusion_has_the_truth_in_its_rows():
    engine, b = NumpyEngine(TINY), batch(TINY, 1)
    guess = int(engine.infer(b.theta, b.x).probs.argmax())
    truth = (guess + 1) % TINY.classes
    one = np.ones(1, np.float32)
    assert engine.evaluate(b.theta, b.x, np.array([truth], np.int32), one, one).confusion[truth, guess] == 1
    unweighted = engine.evaluate(b.theta, b.x, np.array([truth], np.int32), 0 * one, one)
    assert unweighted.confusion.sum() == 0


@pytest.mark.parametrize("n", [0, 1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 4 * CHUNK_ROWS, 2500])
@pytest.mark.parametrize("layout", [TINY, CLASSIFIER, AUTOENCODER], ids=lambda layout: layout.heads)
def test_infer_of_no_rows_and_of_more_than_a_chunk(layout, n):
    engine, b = NumpyEngine(layout), batch(layout, n)
    seen = engine.infer(b.theta, b.x)
    assert (seen.probs.shape, seen.err.shape) == ((n, layout.classes), (n,))
    assert seen.probs.dtype == seen.err.dtype == np.float32
    for row in range(0, n, 50):
        alone = engine.infer(b.theta, b.x[row : row + 1])
        np.testing.assert_allclose(seen.probs[row : row + 1], alone.probs, rtol=1e-5)
        np.testing.assert_allclose(seen.err[row : row + 1], alone.err, rtol=1e-5)
    np.testing.assert_allclose(seen.probs.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("change", ["theta", "width", "labels"])
def test_shapes_that_do_not_fit_are_refused(change):
    engine, b = NumpyEngine(TINY), batch(TINY, 4)
    theta, x, y, wc, wr = b.args()
    if change == "theta":
        theta = theta[:-1]
    elif change == "width":
        x = x[:, :-1]
    else:
        y = y[:-1]
    with pytest.raises(ValueError, match="shape"):
        engine.gradient(theta, x, y, wc, wr, recon_weight=1.0)


def test_weights_and_rows_are_never_written():
    """Read-only arrays are fine for every call."""
    engine, b = NumpyEngine(TINY), batch(TINY, 4)
    for array in b.args():
        array.flags.writeable = False
    engine.gradient(*b.args(), recon_weight=1.0)
    engine.evaluate(*b.args())
    engine.infer(b.theta, b.x)


def test_a_net_without_a_classifier_finds_everything_benign():
    engine, b = NumpyEngine(AUTOENCODER), batch(AUTOENCODER, 5)
    seen = engine.infer(b.theta, b.x)
    assert seen.probs[:, 0].tolist() == [1.0] * 5
    assert (seen.err > 0).all()
    assert engine.evaluate(*b.args()).loss_class_sum == 0.0


def test_a_net_without_a_decoder_has_no_reconstruction_error():
    engine, b = NumpyEngine(CLASSIFIER), batch(CLASSIFIER, 5)
    assert not engine.infer(b.theta, b.x).err.any()
    assert engine.gradient(*b.args(), recon_weight=1.0).loss_recon == 0.0


def test_a_sure_row_does_not_break_the_focal_loss():
    """Where the probability of the true class is 1, the exponent meets a zero."""
    engine, b = NumpyEngine(CLASSIFIER), batch(CLASSIFIER, 4)
    theta = b.theta * np.float32(200.0)
    y = engine.infer(theta, b.x).probs.argmax(axis=1).astype(np.int32)
    out = engine.gradient(theta, b.x, y, b.wc, b.wr, recon_weight=0.0, gamma=2.0)
    assert np.isfinite(out.grad).all()
    assert out.loss_class == pytest.approx(0.0, abs=1e-6)


def test_weights_that_are_trained_in_place_are_seen():
    """The pieces of the last vector are kept; they have to follow it, and another vector has to replace them."""
    engine, b = NumpyEngine(TINY), batch(TINY, 5)
    theta = b.theta.copy()
    before = engine.infer(theta, b.x).err.copy()
    theta *= np.float32(0.5)
    changed = engine.infer(theta, b.x).err
    assert not np.allclose(before, changed)
    np.testing.assert_array_equal(NumpyEngine(TINY).infer(theta, b.x).err, changed)
    np.testing.assert_array_equal(engine.infer(b.theta, b.x).err, before)


@pytest.mark.parametrize("layout", [TINY, DEEP, SHALLOW, CLASSIFIER, AUTOENCODER, REAL], ids=str)
def test_scoring_says_what_evaluation_says(layout):
    """Scoring has matrices of its own; the sums of evaluation come from the layers one by one."""
    engine, b = NumpyEngine(layout), batch(layout, 40, seed=8)
    seen = engine.infer(b.theta, b.x)
    ones = np.ones(len(b.x), dtype=np.float32)
    y = np.zeros(len(b.x), dtype=np.int32)
    sums = engine.evaluate(b.theta, b.x, y, ones, ones)
    assert seen.err.sum() == pytest.approx(sums.loss_recon_sum, rel=1e-5)
    assert -np.log(seen.probs[:, 0]).sum() == pytest.approx(sums.loss_class_sum, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(seen.probs.sum(axis=1), 1.0, rtol=1e-5)


def test_scoring_follows_weights_that_are_changed_in_place_and_keeps_those_that_cannot_be():
    engine, b = NumpyEngine(TINY), batch(TINY, 4)
    theta = b.theta.copy()
    before = engine.infer(theta, b.x)
    theta *= 1.5
    after = engine.infer(theta, b.x)
    np.testing.assert_array_equal(after.probs, NumpyEngine(TINY).infer(theta.copy(), b.x).probs)
    assert (after.err != before.err).all()
    theta.flags.writeable = False
    engine.infer(theta, b.x)
    assert engine._plan(theta) is engine._plan(theta)
