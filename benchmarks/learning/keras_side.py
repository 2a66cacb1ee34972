# ruff: noqa: B905, PTH123
"""What only TensorFlow can answer, in its own interpreter: ``python keras_side.py QUESTION.npz ANSWER.npz``.

Plain Keras layers, TensorFlow's own gradients and Keras' own optimisers on the rows of the question: nothing is shared
with the graph that the artifact is built from.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf


def net(shape):
    """Return a two-headed Keras model and the order of its variables in the flat vector."""
    inputs, classes, hidden = shape["inputs"], shape["classes"], shape["hidden"]
    x = tf.keras.Input((inputs,))
    h = x
    encoder, decoder = [], []
    for width in hidden:
        encoder.append(tf.keras.layers.Dense(width, activation="relu"))
        h = encoder[-1](h)
    head = tf.keras.layers.Dense(classes)
    logits = head(h)
    z = h
    widths = [*reversed(hidden[:-1]), inputs]
    for number, width in enumerate(widths):
        decoder.append(tf.keras.layers.Dense(width, activation=None if number == len(widths) - 1 else "relu"))
        z = decoder[-1](z)
    model = tf.keras.Model(x, [logits, z])
    return model, [v for layer in (*encoder, head, *decoder) for v in layer.trainable_variables]


def assign(variables, theta):
    at = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        variable.assign(theta[at : at + size].reshape(variable.shape))
        at += size


def flat(tensors):
    return np.concatenate([np.asarray(t).ravel() for t in tensors])


def follow(shape, case, theta0, rows):
    """Return all gradients and the weights after all steps."""
    model, variables = net(shape)
    assign(variables, theta0)
    options = {"global_clipnorm": case["clip"]} if case["clip"] else {}
    if case["kind"] == "sgd":
        optimizer = tf.keras.optimizers.SGD(case["rate"], momentum=0.9, **options)
    elif case["decay"]:
        optimizer = tf.keras.optimizers.AdamW(case["rate"], weight_decay=case["decay"], **options)
    else:
        optimizer = tf.keras.optimizers.Adam(case["rate"], **options)
    anchor = [tf.constant(v) for v in variables]
    given = []
    for x, y, wc, wr in rows:
        with tf.GradientTape() as tape:
            logits, z = model(x, training=True)
            known = tf.constant((y >= 0).astype(np.float32))
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(np.maximum(y, 0), logits)
            if case["gamma"]:
                entropy *= (1.0 - tf.exp(-entropy)) ** case["gamma"]
            w = wc * known
            loss = tf.reduce_sum(entropy * w) / tf.maximum(tf.reduce_sum(w), 1e-6)
            err = tf.reduce_mean((z - x) ** 2, -1)
            loss += case["recon"] * tf.reduce_sum(err * wr) / tf.maximum(tf.reduce_sum(wr), 1e-6)
            if case["mu"]:
                loss += 0.5 * case["mu"] * tf.add_n([tf.reduce_sum((v - a) ** 2) for v, a in zip(variables, anchor)])
        gradients = tape.gradient(loss, variables)
        given.append(flat(gradients))
        optimizer.apply_gradients(zip(gradients, variables))
    return np.array(given), flat([v.numpy() for v in variables])


def epoch_seconds(shape, x, y):
    """Return CPU seconds of one ``fit`` epoch on all rows, batches of 32, after a first one that compiles."""
    model, _ = net(shape)
    loss = [tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile(optimizer="adam", loss=loss)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        model.fit(x, [y, x], batch_size=32, epochs=1, verbose=0)
        best = min(best, time.process_time() - began)
    return best


def main(question, answer):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with np.load(question) as kept:
        asked = dict(kept)
    shape = json.loads(str(asked["shape"]))
    found = {"version": tf.__version__}
    for name, case in json.loads(str(asked["cases"])).items():
        steps = case["steps"]
        rows = [tuple(asked[f"{name}/{step}/{part}"] for part in "xycr") for step in range(steps)]
        found[f"{name}/gradients"], found[f"{name}/weights"] = follow(shape, case, asked["theta"], rows)
    if "x" in asked:
        found["epoch_s"] = epoch_seconds(shape, asked["x"], asked["y"])
    with open("/proc/self/status", encoding="ascii") as status:
        found["rss_kb"] = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    np.savez(answer, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
