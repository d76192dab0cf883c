#!/usr/bin/env python3
"""Trains the compact network and the net on hand-made numbers beside it.

    train.py cv    --material DIR --work DIR   cross-validation: prints what each would hear
    train.py final --material DIR --work DIR   fits on everything, writes the networks

`ecosight-models export-compact` makes the material; `ecosight-models bundle-compact` makes a bundle
of what is written here. One thread, deterministic for a seed; what is in WORK is not computed again.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# Training allocates and frees the same large blocks all the time: let them stay.
for name, value in (("MALLOC_MMAP_THRESHOLD_", 1 << 32), ("MALLOC_TRIM_THRESHOLD_", 1 << 33), ("OMP_NUM_THREADS", 1)):
    if name not in os.environ:
        os.environ[name] = str(value)
        os.environ["COMPACT_AGAIN"] = "1"
if os.environ.pop("COMPACT_AGAIN", None):
    # These are read when a process starts.
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np
import torch

from fit import fit_network, fit_numbers, run_network
from graph import LOGIT_UNIT, head_onnx, network_onnx
from material import Material, judge, show
from network import Network

torch.set_num_threads(1)
NUMBER_SEEDS = 3
JUDGED = ("plain", "band_limited", "quiet")
# What is said out of fold beyond that: a full bundle with this one as its second ear is judged on it.
SAID = (*JUDGED, "in_context", "silence")


class Plan:
    """One network: `examples:mine:seed`."""

    def __init__(self, text):
        self.examples, self.mine, self.seed = (int(part) for part in text.split(":"))
        self.name = text.replace(":", "-")


def plans(text):
    return [Plan(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["cv", "final"])
    parser.add_argument("--material", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument(
        "--networks", type=plans, default=plans("80000:20:0"),
        help="networks whose mean is used: patches that it sees : how much more often it sees "
        "background that scores as an alert : seed, …",
    )
    parser.add_argument("--share", type=float, default=0.75, help="the network's part of the logits")
    parser.add_argument("--hard", type=float, default=4.0, help="weight of background that scores as an alert")
    return parser.parse_args()


def teller(name):
    begun = time.process_time()

    def tell(step, steps, loss):
        used = time.process_time() - begun
        left = used / step * (steps - step)
        print(f"{name}: {step}/{steps}, loss {loss:.3f}, {used:.0f} s of CPU, {left:.0f} s left", flush=True)

    return tell


def softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


def temperature(logits, label, weight):
    """That with the least loss on the examples."""
    def loss(t):
        p = softmax(logits / t)[np.arange(len(label)), label]
        return -(np.log(np.maximum(p, 1e-9)) * weight).sum() / weight.sum()

    grid = np.geomspace(0.3, 3, 60)
    return float(grid[np.argmin([loss(t) for t in grid])])


def numbers_of(material):
    return material.transient


def cross_validate(material, options):
    weights = material.weights()
    numbers = numbers_of(material)
    judged = np.isin(material.form[material.item], JUDGED)
    said = np.isin(material.form[material.item], SAID)
    classes = len(material.classes)

    path = options.work / "numbers.npy"
    if path.exists():
        by_numbers = np.load(path)
    else:
        by_numbers = np.full((NUMBER_SEEDS, len(weights), classes), np.nan, np.float32)
        for fold in range(material.folds):
            train = np.where(material.row_fold == fold, 0, weights)
            rows = np.flatnonzero(said & (material.row_fold == fold))
            for seed in range(NUMBER_SEEDS):
                net = fit_numbers(material, numbers, train, seed, 300_000, material.alerting, hard=options.hard)
                by_numbers[seed, rows] = net(numbers[rows])
        np.save(path, by_numbers)
    rows = np.flatnonzero(judged)

    def score(logits):
        out = np.zeros(len(weights), np.float32)
        out[rows] = softmax(logits[rows])[:, material.alerting]
        return out

    show("numbers", judge(material, score(by_numbers.mean(0)), rows=rows))
    by_network = []
    for plan in options.networks:
        logits = np.full((len(weights), classes), np.nan, np.float32)
        for fold in range(material.folds):
            path = options.work / f"network-{plan.name}-{fold}.npy"
            own = np.flatnonzero(said & (material.row_fold == fold))
            if not path.exists():
                train = np.where(material.row_fold == fold, 0, weights)
                tell = teller(f"network {plan.name}, fold {fold}")
                network = fit_network(
                    material, train, plan.seed * 100 + fold, plan.examples,
                    hard=options.hard, mine=plan.mine, tell=tell,
                )
                np.save(path, run_network(network, material, own))
            logits[own] = np.load(path)
        by_network.append(logits)
        show(f"network {plan.name}", judge(material, score(logits), rows=rows))
        both = options.share * logits + (1 - options.share) * by_numbers.mean(0)
        show(f"network {plan.name} and numbers", judge(material, score(both), rows=rows))
    mean = np.mean(by_network, 0)
    both = options.share * mean + (1 - options.share) * by_numbers.mean(0)
    examples = np.flatnonzero(judged & material.example)
    t = temperature(both[examples], material.label[examples], weights[examples])
    result = judge(material, score(both / t), rows=rows)
    show(f"all networks and numbers, temperature {t:.2f}", result)
    both.astype("<f4").tofile(options.work / "oof.f32")
    summary = {"temperature": t, "result": result, "networks": [plan.name for plan in options.networks],
               "share": options.share, "hard": options.hard}
    (options.work / "cv.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(result["rates"]), flush=True)


def fit_all(material, options):
    weights = material.weights()
    networks = []
    for plan in options.networks:
        path = options.work / f"final-{plan.name}.pt"
        network = Network(len(material.classes)).eval()
        if path.exists():
            network.load_state_dict(torch.load(path))
        else:
            tell = teller(f"final network {plan.name}")
            network = fit_network(
                material, weights, plan.seed * 100 + 99, plan.examples,
                hard=options.hard, mine=plan.mine, tell=tell,
            )
            torch.save(network.state_dict(), path)
        networks.append(network.eval())
    numbers = numbers_of(material)
    nets = [
        fit_numbers(material, numbers, weights, seed, 350_000, material.alerting, hard=options.hard)
        for seed in range(NUMBER_SEEDS)
    ]
    classes = len(material.classes)
    network_file = network_onnx(networks, material.patch_frames, material.bands)
    head_file = head_onnx(nets, classes, options.share)
    (options.work / "compact.onnx").write_bytes(network_file)
    (options.work / "head.onnx").write_bytes(head_file)
    normalisation = {
        "mean": [0.0] * classes + [float(x) for x in nets[0].mean],
        "scale": [1 / LOGIT_UNIT] * classes + [float(x) for x in nets[0].scale],
        "limit": 8.0,
    }
    (options.work / "normalisation.json").write_text(json.dumps(normalisation))
    check(material, networks, nets, network_file, head_file, normalisation, options)


def check(material, networks, nets, network_file, head_file, normalisation, options):
    """The written files say what the trained ones do."""
    import onnxruntime

    rows = np.flatnonzero(material.example)[:: max(1, material.example.sum() // 50)][:50]
    session = onnxruntime.InferenceSession(network_file)
    logits = session.run(None, {"patch": material.patches(rows).astype(np.float32)})[0]
    own = np.mean([run_network(network, material, rows) for network in networks], 0)
    features = np.concatenate([logits, material.transient[rows]], 1)
    limit = normalisation["limit"]
    features = np.clip((features - normalisation["mean"]) * normalisation["scale"], -limit, limit)
    head = onnxruntime.InferenceSession(head_file).run(None, {"features": features.astype(np.float32)})[0]
    both = options.share * own + (1 - options.share) * np.mean([net(material.transient[rows]) for net in nets], 0)
    off = max(np.abs(logits - own).max(), np.abs(head - both).max())
    print(f"written networks differ from the trained ones by at most {off:.2e}", flush=True)
    assert off < 2e-3, off


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    material = Material(options.material)
    parameters = sum(p.numel() for p in Network(len(material.classes)).parameters())
    print(f"{len(material.item)} windows, {material.example.sum()} examples, {parameters} parameters", flush=True)
    {"cv": cross_validate, "final": fit_all}[options.task](material, options)


if __name__ == "__main__":
    main()
