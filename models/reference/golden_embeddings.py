"""Makes models/src/yamnet/golden.f16: the true embeddings of the golden sounds.

    cargo run --release -p ecosight-models --example golden_sounds -- SOUNDS
    python models/reference/golden_embeddings.py YAMNET.tflite SOUNDS models/src/yamnet/golden.f16
"""

import sys

import numpy as np

from yamnet_reference import PATCH_SAMPLES, log_mel, session

SOUNDS = ["noise", "sweep", "bursts", "hum", "chirps"]


def main(weights, sounds, target):
    network = session(weights)
    embeddings = []
    for name in SOUNDS:
        waveform = np.fromfile(f"{sounds}/{name}.f32", dtype="<f4")[:PATCH_SAMPLES]
        patch = log_mel(waveform)[None, None]
        embedding, scores = network.run(["embedding", "scores"], {"x": patch})
        embeddings.append(embedding[0])
        top = scores[0].argmax()
        print(f"{name}: {len(waveform)} samples, AudioSet class {top} at {scores[0][top]:.3f}")
    np.stack(embeddings).astype("<f2").tofile(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
