"""Times the training of a head, ours and the same network in Keras, taking turns.

    bench_training.py HEAD_TRAINING [--rounds N]

HEAD_TRAINING is the built example models/examples/head_training.rs. The table is made up: 15,000 rows of
1,024 numbers that are never negative, as embeddings are, of six classes that overlap. Both train 25 epochs
of one hidden layer with 64 units, ReLU, dropout .3, input noise, label smoothing .02 and AdamW. Keras is
given its best here: the table in memory, one compiled step (jit where it helps), all cores; its import and
its first, compiling epoch are not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROWS, TEST_ROWS, INPUTS, CLASSES, HIDDEN, EPOCHS = 15_000, 5_000, 1_024, 6, 64, 25


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
    begun = time.perf_counter()
    model.fit(train[0], target, batch_size=batch, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - begun
    called = model.predict(test[0], batch_size=1024, verbose=0).argmax(1)
    return {"seconds": seconds, "accuracy": float((called == test[1]).mean())}


def own_fit(program, folder, batch, seed):
    numbers = [INPUTS, CLASSES, HIDDEN, EPOCHS, batch, seed]
    out = subprocess.run(
        [program, folder, *map(str, numbers)], check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


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
        print(f"| examples a step | EcoSight, s | accuracy | Keras, s | accuracy | Keras takes |")
        print("|---|---|---|---|---|---|")
        for batch in (256, 32):
            own, keras = [], []
            for seed in range(arguments.rounds):
                own.append(own_fit(arguments.program, folder, batch, seed))
                keras.append(keras_fit(parts["train"], parts["test"], batch, seed))
            median = lambda runs, key: statistics.median(run[key] for run in runs)
            ours, theirs = median(own, "seconds"), median(keras, "seconds")
            print(
                f"| {batch} | {ours:.2f} | {median(own, 'accuracy'):.3f} "
                f"| {theirs:.2f} | {median(keras, 'accuracy'):.3f} | {theirs / ours:.1f} × |"
            )


if __name__ == "__main__":
    main()
