"""Times the training of a head, ours and the same network in Keras, taking turns, and checks the limits.

    bench_training.py HEAD_TRAINING [--rounds N]

HEAD_TRAINING is the built example models/examples/head_training.rs; `make bench-training` builds it and
installs Keras. The table is made up: 15,000 rows of 1,024 numbers that are never negative, as embeddings
are, of six classes that overlap. Both train 25 epochs of one hidden layer with 64 units, ReLU, dropout .3,
input noise, label smoothing .02 and AdamW, and both give a network from 1,024 numbers to six. Keras has
the table in memory, one compiled step and all cores; its import and its first, compiling epoch are not
counted. What is counted of ours begins with the table in memory too.

The first row is what the limits are about: a retraining as it ships (the inputs brought down to 128
directions first, counted; 256 examples a step) beside Keras with the step its `fit` takes by itself (32).
The other rows give both the same steps and both all inputs, so that one sees what the first row's factor
comes from. Exits with 1 if a limit is missed, and says which.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROWS, TEST_ROWS, INPUTS, CLASSES, HIDDEN, EPOCHS = 15_000, 5_000, 1_024, 6, 64, 25
# What `Recipe::default()` takes, and what Keras' `fit` takes.
OWN_COMPONENTS, OWN_BATCH, KERAS_BATCH = 128, 256, 32
# Ours: components (0 for none) and examples a step; Keras: examples a step.
PAIRS = [
    (OWN_COMPONENTS, OWN_BATCH, KERAS_BATCH),
    (0, OWN_BATCH, OWN_BATCH),
    (0, KERAS_BATCH, KERAS_BATCH),
]
MOST_SECONDS, LEAST_FACTOR, MOST_POINTS = 20.0, 20.0, 0.5


def table(rng, rows, centres, mixing):
    """Classes lie around a few centres each in 40 hidden directions; what is seen is their rectified sum."""
    label = rng.integers(0, CLASSES, rows)
    centre = centres[label, rng.integers(0, centres.shape[1], rows)]
    hidden = centre + rng.normal(0, 1.0, (rows, centres.shape[2]))
    seen = np.maximum(hidden @ mixing + rng.normal(0, 1.5, (rows, INPUTS)), 0)
    return seen.astype(np.float32), label.astype(np.uint8)


def keras_fit(train, test, batch, seed):
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input((INPUTS,)),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Dense(HIDDEN, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES),
        ]
    )
    steps = -(-ROWS // batch) * EPOCHS
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(1e-3, steps), weight_decay=0.05
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.02),
    )
    target = np.eye(CLASSES, dtype=np.float32)[train[1]]
    # One epoch to compile, then back to the beginning.
    fresh = model.get_weights()
    model.fit(train[0], target, batch_size=batch, epochs=1, verbose=0)
    model.set_weights(fresh)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    begun = time.perf_counter()
    model.fit(train[0], target, batch_size=batch, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - begun
    called = model.predict(test[0], batch_size=1024, verbose=0).argmax(1)
    return {"seconds": seconds, "accuracy": float((called == test[1]).mean())}


def own_fit(program, folder, components, batch, seed):
    numbers = [INPUTS, CLASSES, HIDDEN, EPOCHS, batch, components, seed]
    out = subprocess.run(
        [program, folder, *map(str, numbers)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(out.stdout)


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def limits(own, keras):
    """The three limits as (sentence, whether it holds)."""
    ours, theirs = median(own, "seconds"), median(keras, "seconds")
    points = 100 * (median(keras, "accuracy") - median(own, "accuracy"))
    return [
        (f"a retraining takes {ours:.2f} s, at most {MOST_SECONDS:.0f}", ours <= MOST_SECONDS),
        (
            f"Keras takes {theirs / ours:.1f} times as long, at least {LEAST_FACTOR:.0f}",
            theirs >= LEAST_FACTOR * ours,
        ),
        (
            f"its accuracy is {abs(points):.2f} points {'below' if points > 0 else 'above'} that of "
            f"Keras, at most {MOST_POINTS} below",
            points <= MOST_POINTS,
        ),
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments = arguments.parse_args()
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 1.1, (CLASSES, 4, 40))
    mixing = rng.normal(0, 0.5, (40, INPUTS))
    mean = None
    with tempfile.TemporaryDirectory() as folder:
        parts = {}
        for name, rows in [("train", ROWS), ("test", TEST_ROWS)]:
            features, label = table(rng, rows, centres, mixing)
            if mean is None:
                mean, deviation = features.mean(0), features.std(0) + 1e-6
            parts[name] = ((features - mean) / deviation, label)
            Path(folder, f"{name}.f32").write_bytes(parts[name][0].astype("<f4").tobytes())
            Path(folder, f"{name}.u8").write_bytes(label.tobytes())
        own = {(components, batch): [] for components, batch, _ in PAIRS}
        keras = {batch: [] for _, _, batch in PAIRS}
        for seed in range(arguments.rounds):
            for (components, batch), runs in own.items():
                runs.append(own_fit(arguments.program, folder, components, batch, seed))
            for batch, runs in keras.items():
                runs.append(keras_fit(parts["train"], parts["test"], batch, seed))
    print("| EcoSight | s | accuracy | Keras, examples a step | s | accuracy | Keras takes |")
    print("|---|---|---|---|---|---|---|")
    for components, batch, theirs in PAIRS:
        runs, others = own[components, batch], keras[theirs]
        inputs = f"{components} directions" if components else "all inputs"
        factor = median(others, "seconds") / median(runs, "seconds")
        print(
            f"| {inputs}, {batch} a step | {median(runs, 'seconds'):.2f} | {median(runs, 'accuracy'):.4f} "
            f"| {theirs} | {median(others, 'seconds'):.2f} | {median(others, 'accuracy'):.4f} | {factor:.1f} × |"
        )
    judged = limits(own[OWN_COMPONENTS, OWN_BATCH], keras[KERAS_BATCH])
    for sentence, holds in judged:
        print(f"{'held' if holds else 'MISSED'}: {sentence}", file=sys.stderr)
    sys.exit(0 if all(holds for _, holds in judged) else 1)


if __name__ == "__main__":
    main()
