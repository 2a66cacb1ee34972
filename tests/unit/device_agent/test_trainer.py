"""The training loop."""

from dataclasses import replace

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.inference.engine import Gradient
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.checkpoint import checkpoint_from_message, checkpoint_to_message
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, class_weights, row_weights, train

LAYOUT = Layout(inputs=6, classes=3, hidden=(12, 6), train_batch=16)
SETTINGS = TrainSettings(epochs=15, seed=4, optimizer=OptimizerSettings(learning_rate=1e-2))


def separable(n=300, seed=0):
    """Three classes around three centres, one row in five unlabelled."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, size=n, p=[0.7, 0.2, 0.1])
    x = rng.uniform(0, 2, size=(3, 6))[truth] + rng.normal(0, 0.1, (n, 6))
    y = np.where(rng.uniform(size=n) < 0.2, -1, truth)
    return TrainData(x.astype(np.float32), y.astype(np.int32)), truth


def run(data, settings=SETTINGS, **options):
    return train(NumpyEngine(LAYOUT), initial_theta(LAYOUT, 1), data, settings, **options)


def test_training_learns_classes_and_reconstruction():
    data, truth = separable()
    result = run(data)
    seen = NumpyEngine(LAYOUT).infer(result.theta, data.x)
    assert (seen.probs.argmax(axis=1) == truth).mean() > 0.97
    before = NumpyEngine(LAYOUT).infer(initial_theta(LAYOUT, 1), data.x)
    assert seen.err[truth == 0].mean() < 0.3 * before.err[truth == 0].mean()
    assert result.losses[-1] < 0.3 * result.losses[0]
    assert (result.steps, result.diverged, result.stopped) == (15 * 19, False, False)


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not():
    data, _ = separable()
    np.testing.assert_array_equal(run(data).theta, run(data).theta)
    assert (run(data).theta != run(data, replace(SETTINGS, seed=5)).theta).any()


def test_every_row_is_used_once_an_epoch():
    """The engine sees a permutation of the rows, in batches of at most the static size."""
    data, _ = separable(n=50)
    seen = []

    class Watching(NumpyEngine):
        def gradient(self, theta, x, y, wc, wr, **settings):
            seen.append(x.copy())
            return super().gradient(theta, x, y, wc, wr, **settings)

    train(Watching(LAYOUT), initial_theta(LAYOUT, 1), data, replace(SETTINGS, epochs=2))
    assert [len(x) for x in seen] == [16, 16, 16, 2] * 2
    for epoch in (seen[:4], seen[4:]):
        rows = np.concatenate(epoch)
        np.testing.assert_array_equal(rows[np.lexsort(rows.T)], data.x[np.lexsort(data.x.T)])
    assert (np.concatenate(seen[:4]) != np.concatenate(seen[4:])).any()


@pytest.mark.parametrize("n", [1, 16, 50, 1024, 1025, 2100])
def test_rows_come_in_the_order_of_the_seed_with_their_labels_and_weights(n):
    """However they are gathered: blocks of batches, and what is left over."""
    data, _ = separable(n=n)
    data.x[:, 0] = np.arange(n)
    seen = []

    class Watching(NumpyEngine):
        def gradient(self, theta, x, y, wc, wr, **settings):
            seen.append((x.copy(), y.copy(), wc.copy(), wr.copy()))
            return super().gradient(theta, x / n, y, wc, wr, **settings)

    train(Watching(LAYOUT), initial_theta(LAYOUT, 1), data, replace(SETTINGS, epochs=2))
    rng = np.random.default_rng(SETTINGS.seed)
    orders = [rng.permutation(n), rng.permutation(n)]
    assert [len(x) for x, *_ in seen] == 2 * [min(16, n - at) for at in range(0, n, 16)]
    expected = data.x, data.y, *row_weights(data.y, LAYOUT.classes, cap=SETTINGS.class_weight_cap)
    for got, column in zip(zip(*seen, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(got), np.concatenate([column[order] for order in orders]))


def test_class_weights_are_inverse_roots_capped_with_mean_one():
    y = np.array([0] * 900 + [1] * 100 + [2] + [-1] * 50, dtype=np.int32)
    weights = class_weights(y, 4, cap=10.0)
    assert weights[1] / weights[0] == pytest.approx(3.0)
    assert weights[2] / weights[0] == pytest.approx(10.0)  # 30 without the cap
    assert weights[3] == 0.0
    assert weights[y[y >= 0]].mean() == pytest.approx(1.0, rel=1e-5)


def test_class_weights_without_labels_are_zero():
    assert not class_weights(np.full(5, -1, np.int32), 3, cap=10.0).any()


def test_attacks_teach_the_classifier_only_and_unlabelled_rows_the_reconstruction_only():
    wc, wr = row_weights(np.array([0, 1, -1], np.int32), 3, cap=10.0)
    assert (wc > 0).tolist() == [True, True, False]
    assert wr.tolist() == [1.0, 0.0, 1.0]


def test_unlabelled_rows_alone_still_teach():
    data, _ = separable()
    blind = TrainData(data.x, np.full(len(data.y), -1, np.int32))
    result = run(blind)
    assert result.losses[-1] < result.losses[0]
    where, _ = LAYOUT.slices()["classifier.weight"]
    np.testing.assert_array_equal(result.theta[where], initial_theta(LAYOUT, 1)[where])


def test_it_stops_when_told_and_keeps_what_it_has():
    data, _ = separable()
    answers = iter([False] * 5 + [True])
    result = run(data, should_stop=lambda: next(answers))
    assert (result.steps, result.stopped, result.diverged) == (5, True, False)
    assert (result.theta != initial_theta(LAYOUT, 1)).any()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("max_steps", [0, 130])
def test_a_training_taken_up_at_any_epoch_ends_where_the_uninterrupted_one_does(kind, max_steps):
    """To the last bit, figures included; the checkpoint goes through its form on disk."""
    data, _ = separable()
    optimizer = OptimizerSettings(kind=kind, learning_rate=1e-2, proximal_mu=0.1, clip_norm=0.5)
    settings = replace(SETTINGS, epochs=8, max_steps=max_steps, optimizer=optimizer)
    kept = []
    whole = run(data, settings, on_epoch=lambda make: kept.append(checkpoint_to_message(make())))
    assert len(kept) == (8 if not max_steps else 6)
    for message in kept:
        resumed = run(data, settings, resume=checkpoint_from_message(message))
        np.testing.assert_array_equal(resumed.theta, whole.theta)
        assert replace(resumed, theta=None) == replace(whole, theta=None)


@pytest.mark.parametrize("part", ["theta", "m", "v"])
def test_a_saved_state_that_does_not_fit_is_refused(part):
    data, _ = separable()
    kept = []
    run(data, replace(SETTINGS, epochs=1), on_epoch=lambda make: kept.append(make()))
    good = getattr(kept[0], part)
    for bad in (good[:-1], np.full_like(good, np.nan)):
        with pytest.raises(ValueError, match="saved state"):
            run(data, resume=replace(kept[0], **{part: bad}))


def test_it_stops_at_the_step_bound():
    result = run(separable()[0], replace(SETTINGS, max_steps=7))
    assert (result.steps, result.stopped) == (7, True)


class Broken(NumpyEngine):
    """Gives a gradient that is not finite from some call on."""

    good = 0

    def gradient(self, *args, **options):
        out = super().gradient(*args, **options)
        self.good -= 1
        return out if self.good >= 0 else Gradient(out.grad * np.float32(np.nan), float("nan"), 0.0)


def test_batches_without_a_finite_gradient_are_skipped_and_counted():
    engine = Broken(LAYOUT)
    engine.good = 10
    result = train(engine, initial_theta(LAYOUT, 1), separable()[0], replace(SETTINGS, epochs=1))
    assert (result.steps, result.skipped_steps, result.diverged) == (10, 9, False)
    assert np.isfinite(result.theta).all()
    assert np.isfinite(result.losses).all()


def test_without_any_step_the_starting_point_comes_back():
    result = train(Broken(LAYOUT), initial_theta(LAYOUT, 1), separable()[0], SETTINGS)
    assert result.diverged
    np.testing.assert_array_equal(result.theta, initial_theta(LAYOUT, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: TrainData(d.x[:0], d.y[:0]), "no rows"),
        (lambda d: TrainData(d.x, d.y[:-1]), "labels of shape"),
        (lambda d: TrainData(d.x, np.full(len(d.y), 3, np.int32)), "outside -1..2"),
        (lambda d: TrainData(d.x, np.full(len(d.y), -2, np.int32)), "outside -1..2"),
        (lambda d: TrainData(d.x * np.float32(np.nan), d.y), "not finite"),
    ],
    ids=["empty", "lengths", "class too high", "class too low", "nan"],
)
def test_rows_that_must_not_be_trained_on_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        run(spoil(separable()[0]))


def test_weights_that_are_not_finite_are_refused():
    theta = initial_theta(LAYOUT, 1)
    theta[3] = np.nan
    with pytest.raises(ValueError, match="starting weights"):
        train(NumpyEngine(LAYOUT), theta, separable()[0], SETTINGS)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"recon_weight": float("nan")},
        {"class_weight_cap": 0.5},
        {"seed": -1},
        {"max_steps": -1},
        {"focal_gamma": 11.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainSettings(**options)
