"""Load on the server as its users make it: rangers' tools, analysts, and somebody who overdoes it.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

`make load USERS=100` starts a server of its own and writes CSV and HTML reports. The sounds are made
here, by a seeded generator: no recording is needed. Nothing is hidden: a request that is not answered
as it should be is a failure, also a 503 under load. Deliberately bad input is answered by a 4xx that
names the reason, and only then counts as served.
"""

import io
import math
import random
import struct
import wave

from locust import HttpUser, between, constant_pacing, task

RATE_HZ = 16_000
SECONDS = 2
CLASSES = ["gun_shot", "guineafowl", "dog", "vehicle", "silence", "background"]


def wav(samples):
    """16-bit mono at 16 kHz."""
    frames = struct.pack(f"<{len(samples)}h", *(int(max(-1.0, min(1.0, s)) * 32_767) for s in samples))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(frames)
    return out.getvalue()


def shot(rng):
    """Quiet, then a burst of noise that decays within a tenth of a second."""
    onset, decay = rng.randrange(RATE_HZ // 4, RATE_HZ), rng.uniform(800, 2_400)
    return [
        rng.uniform(-1, 1) * (0.003 if n < onset else 0.003 + 0.9 * math.exp((onset - n) / decay))
        for n in range(SECONDS * RATE_HZ)
    ]


def engine(rng):
    """A low buzz with harmonics."""
    base = rng.uniform(40, 120)
    return [
        sum(math.sin(math.tau * base * k * n / RATE_HZ) / k for k in range(1, 6)) * 0.1
        + rng.uniform(-0.01, 0.01)
        for n in range(SECONDS * RATE_HZ)
    ]


def rain(rng):
    """Noise."""
    level = rng.uniform(0.01, 0.1)
    return [rng.uniform(-level, level) for _ in range(SECONDS * RATE_HZ)]


def bird(rng):
    """Whistles that rise."""
    low, every = rng.uniform(1_500, 3_000), rng.randrange(4_000, 9_000)
    return [
        math.sin(math.tau * (low + 800 * (n % every) / every) * n / RATE_HZ)
        * 0.2
        * (1 if n % every < every // 3 else 0.01)
        for n in range(SECONDS * RATE_HZ)
    ]


def make_sounds():
    rng = random.Random(20260301)
    return [wav(make(rng)) for make in (shot, engine, rain, bird) for _ in range(6)]


SOUNDS = make_sounds()
# What the first server answered with a 500, each with the answers that are right now.
BAD_FILES = [
    ("empty.wav", b"", {400}),
    ("text.wav", b"this is not a sound, whatever its name says\n" * 8, {415}),
    ("zeros.wav", bytes(1_000), {415, 422}),
    ("cut.wav", SOUNDS[0][: len(SOUNDS[0]) // 2], {422}),
    (
        "nan.wav",
        b"RIFF" + struct.pack("<I", 36 + 64_000) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, RATE_HZ, 64_000, 4, 32)
        + b"data" + struct.pack("<I", 64_000) + struct.pack("<f", math.nan) * 16_000,
        {422},
    ),
    ("../../\u00fc\u202e.wav", SOUNDS[0], {200}),
    # No file name holds a NUL, so the form is none.
    ("a\u0000b.wav", SOUNDS[0], {200, 400}),
]


class EcoSightUser(HttpUser):
    """What all users do alike."""

    abstract = True

    def predict(self, **parameters):
        sound = random.choice(SOUNDS)
        with self.client.post(
            "/predict", files={"file": ("sound.wav", sound, "audio/wav")}, params=parameters,
            name="/predict", catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            answer = response.json()
            total = sum(answer["all_probabilities"].values())
            if not answer["success"] or abs(total - 1) > 1e-3:
                response.failure(f"not an answer: {response.text[:200]}")

    def read(self, path, *fields):
        with self.client.get(path, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            missing = [field for field in fields if field not in response.json()]
            if missing:
                response.failure(f"{path} lacks {missing}")


class WildlifeMonitoringUser(EcoSightUser):
    """A client that watches over a few recorders: sounds most of all, now and then a look around."""

    weight = 7
    wait_time = between(1, 3)

    @task(100)
    def predict_sound(self):
        self.predict()

    @task(20)
    def status(self):
        self.read("/status", "status", "uptime", "total_predictions", "classes")

    @task(15)
    def metrics(self):
        self.read("/metrics", "precision", "recall", "f1_score", "confusion_matrix", "per_class_metrics")

    @task(15)
    def health(self):
        self.read("/health", "status", "timestamp", "model_loaded")

    @task(5)
    def history(self):
        self.read("/training-history", "has_history", "training_history", "retraining_log")

    @task(5)
    def upload(self):
        self.client.post(
            "/upload",
            files={"file": ("field.wav", random.choice(SOUNDS), "audio/wav")},
            data={"class_name": random.choice(CLASSES)},
        )


class PowerUser(EcoSightUser):
    """An analyst at work: many sounds with all that can be told of them, and a training once in a while."""

    weight = 2
    wait_time = between(0.5, 1.5)

    @task(100)
    def predict_sound(self):
        self.predict(windows="true")

    @task(20)
    def detections(self):
        self.read("/api/v1/detections?limit=50", "items", "next")

    @task(10)
    def metrics(self):
        self.read("/metrics", "precision", "recall")

    @task(10)
    def upload(self):
        self.client.post(
            "/upload",
            files={"file": ("field.wav", random.choice(SOUNDS), "audio/wav")},
            data={"class_name": random.choice(CLASSES)},
        )

    @task(1)
    def retrain(self):
        # Far more samples than there are: asking is what is measured here, not training.
        self.client.post("/retrain", json={"trigger_reason": "load test", "min_new_samples": 1_000_000})


class StressTestUser(EcoSightUser):
    """Sends as fast as it may, and sends rubbish."""

    weight = 1
    wait_time = constant_pacing(0.3)

    @task(40)
    def predict_sound(self):
        self.predict()

    @task(5)
    def health(self):
        self.read("/health", "status")

    @task(5)
    def predict_rubbish(self):
        name, content, expected = random.choice(BAD_FILES)
        with self.client.post(
            "/predict", files={"file": (name, content, "audio/wav")}, name="/predict (bad input)",
            catch_response=True,
        ) as response:
            if response.status_code not in expected:
                response.failure(f"{name!r}: {response.status_code}: {response.text[:200]}")
            elif response.status_code != 200 and not response.json().get("detail"):
                response.failure(f"{name!r}: refused without a reason")
            else:
                # Refused as it should be, and with its reason.
                response.success()
