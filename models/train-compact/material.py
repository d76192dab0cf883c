"""What `ecosight-models export-compact` wrote, as arrays; patches as the station makes them."""

import json
from pathlib import Path

import numpy as np

HOP_HOURS = 0.48 / 3600
UNIT_DB, LIMIT = 10.0, 8.0
# Quieter windows are what a recorder hears of silence: no example of a sound (dBFS).
INAUDIBLE_DBFS = -75.0


class Material:
    """Windows (rows) of items (sounds); `frames` holds the items' spectrograms end to end."""

    def __init__(self, folder):
        folder = Path(folder)
        self.index = index = json.loads((folder / "index.json").read_text())
        self.bands, self.patch_frames = index["bands"], index["patch_frames"]
        self.frames = np.fromfile(folder / "frames.f16", "<f2").reshape(-1, self.bands)
        width = index["marks"] + index["transient"] + self.bands
        rows = np.fromfile(folder / "windows.f32", "<f4").reshape(-1, width)
        self.item, self.end, self.heard, self.label = rows[:, :4].T.astype(np.int64)
        self.example = rows[:, 4] > 0
        self.start = rows[:, 7].astype(np.int64)
        self.transient = rows[:, index["marks"] : index["marks"] + index["transient"]].copy()
        self.median = rows[:, index["marks"] + index["transient"] :].copy()
        items = index["items"]
        self.form = np.array([item["form"] for item in items])
        self.fold = np.array([item["fold"] for item in items])
        self.clip = np.array([-1 if item["clip"] is None else item["clip"] for item in items])
        self.first = np.array([item["first_frame"] for item in items])
        clips = index["clips"]
        none = {"source": "made", "group": "made", "label": "made", "name": ""}
        of = [clips[clip] if clip >= 0 else none for clip in self.clip]
        self.source = np.array([clip["source"] for clip in of])
        self.kind = np.array([clip["label"] for clip in of])
        # Synthesised items are groups of their own.
        self.group = np.array(
            [c["group"] if i >= 0 else f"{f}{n}" for n, (c, i, f) in enumerate(zip(of, self.clip, self.form))]
        )
        audible = (rows[:, 5] >= INAUDIBLE_DBFS) | (self.form[self.item] == "silence")
        self.example &= audible
        self.classes, self.alerting = index["classes"], index["alerting"]
        self.folds = index["folds"]
        self.row_fold = self.fold[self.item]

    def patches(self, rows, shift=0):
        """`[rows, 2, frames, bands]`: the network's input, `shift` frames (one number, or one for
        each row) later than the station would cut it."""
        at = self.end[rows, None] - self.patch_frames + np.arange(self.patch_frames)
        at = at + np.broadcast_to(shift, len(rows))[:, None]
        known = (at >= 0) & (at < self.heard[rows, None])
        at = np.where(known, at, 0) + self.first[self.item[rows], None]
        median = self.median[rows, None, :]
        level = np.where(known[..., None], self.frames[at].astype(np.float32), median)
        planes = np.stack([level - median.mean(2, keepdims=True), level - median], 1)
        return np.clip(planes / UNIT_DB, -LIMIT, LIMIT)

    def weights(self, balance=0.5, group_balance=0.5):
        """Share of each row among the examples: rare classes and small recording groups lifted."""
        weight = np.zeros(len(self.item))
        group = self.group[self.item]
        rows = np.flatnonzero(self.example)
        key = np.char.add(np.char.add(self.label[rows].astype(str), "/"), group[rows])
        _, code, size = np.unique(key, return_inverse=True, return_counts=True)
        weight[rows] = size[code] ** -group_balance
        for label in range(len(self.classes)):
            own = rows[self.label[rows] == label]
            if len(own):
                weight[own] *= len(own) ** (1 - balance) / weight[own].sum()
        return weight


def paired_peak(scores):
    """Highest mean of two neighbouring windows, as the detector confirms."""
    return 0.0 if len(scores) < 2 else float((0.5 * (scores[1:] + scores[:-1])).max())


def judge(material, score, rates=(0.33, 1, 3, 10), rows=None):
    """`score`: per row the score of the alerting class. A clip's score is its highest mean of two
    neighbouring windows; background is every other clip as it is and band-limited."""
    rows = np.arange(len(score)) if rows is None else rows
    item = material.item[rows]
    edges = np.flatnonzero(np.diff(item, prepend=-1, append=-1))
    heard = []
    for a, b in zip(edges[:-1], edges[1:]):
        number = item[a]
        form = material.form[number]
        if material.clip[number] < 0 or form not in ("plain", "band_limited", "quiet", "in_context"):
            continue
        alerting = material.index["items"][number]["class"] == material.alerting
        snr = material.transient[rows[a:b], 8].max()
        heard.append((number, form, alerting, paired_peak(score[rows[a:b]]), (b - a) * HOP_HOURS, snr))
    background = [h for h in heard if not h[2] and h[1] in ("plain", "band_limited")]
    hours = sum(h[4] for h in background)
    ordered = sorted((h[3] for h in background), reverse=True)
    result = {"hours": hours, "rates": {}}
    for rate in rates:
        allowed = int(rate * hours)
        threshold = np.nextafter(np.float32(ordered[allowed]), np.float32(2)) if allowed < len(ordered) else 0
        line = {"threshold": float(threshold)}
        for source in sorted({material.source[h[0]] for h in heard if h[2]}):
            own = [h for h in heard if h[2] and material.source[h[0]] == source and h[1] == "plain"]
            line[source] = float(np.mean([h[3] >= threshold for h in own]))
            if source.startswith("elp"):
                loud = [h[3] >= threshold for h in own if h[5] >= 15]
                line["elp>=15dB"] = float(np.mean(loud))
        alarms = [material.kind[h[0]] for h in background if h[3] >= threshold]
        line["alarms"] = {kind: alarms.count(kind) for kind in sorted(set(alarms))}
        result["rates"][str(rate)] = line
    return result


def show(name, judged):
    cells = []
    for rate, line in judged["rates"].items():
        short = {k.split("_")[0][:8]: v for k, v in line.items() if isinstance(v, float) and k != "threshold"}
        cells.append(f"{rate}/h " + " ".join(f"{k} {v:.2f}" for k, v in short.items()))
    print(f"{name}: " + " | ".join(cells), flush=True)
