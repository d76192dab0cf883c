"""Fits: batches drawn by weight, AdamW on one cycle, the mean of the weights over the last steps."""

import numpy as np
import torch
from torch.nn import functional as F

from network import Network, Numbers

# Largest magnitude of a standardised number.
NUMBER_LIMIT = 8.0


def cycle(step, steps, peak):
    warm = 0.15
    at = step / steps
    return peak * (at / warm if at < warm else 0.5 * (1 + np.cos(np.pi * (at - warm) / (1 - warm))) + 1e-3)


def loss_of(logits, label, alerting, smoothing, hard):
    """Background that scores as an alert weighs more: `1 + hard * score`."""
    each = F.cross_entropy(logits, label, label_smoothing=smoothing, reduction="none")
    with torch.no_grad():
        weight = 1 + hard * torch.softmax(logits, 1)[:, alerting] * (label != alerting)
    return (each * weight).sum() / weight.sum()


def augment(patch, rng):
    """Other microphones (a smooth curve over the bands, in the plane that shows them), lost
    stretches and lost bands."""
    count, _, frames, bands = patch.shape
    x = np.linspace(0, 1, bands, dtype=np.float32)
    curve = sum(
        rng.normal(0, 0.3, (count, 1)) * np.cos(np.pi * k * x + rng.uniform(0, 6.3, (count, 1)))
        for k in (1, 2, 3)
    ).astype(np.float32)
    patch[:, 0] += curve[:, None, :] + rng.normal(0, 0.2, (count, 1, 1)).astype(np.float32)
    for n in range(count):
        if rng.random() < 0.5:
            low = rng.integers(0, bands - 6)
            patch[n, :, :, low : low + rng.integers(1, 7)] = 0
        if rng.random() < 0.3:
            at = rng.integers(0, frames - 10)
            patch[n, 1, at : at + rng.integers(1, 10)] = 0
    return patch


def draw(weight, rng, count):
    """`count` rows, drawn by weight, evenly: the same row seldom twice."""
    edges = np.cumsum(weight)
    points = (np.arange(count) + rng.random(count)) / count * edges[-1]
    rows = np.minimum(np.searchsorted(edges, points, side="right"), len(weight) - 1)
    return rng.permutation(rows)


def average(mean, network, share):
    with torch.no_grad():
        for kept, now in zip(mean.state_dict().values(), network.state_dict().values()):
            if kept.dtype.is_floating_point:
                kept.lerp_(now, share)
            else:
                kept.copy_(now)


# Forms that are looked through for background that scores as an alert; the others are of the same
# recordings.
MINED = ("plain", "mixed", "scene")


def mined(network, material, train, strength):
    """Weights with the background lifted that the network takes for an alert."""
    rows = np.flatnonzero((train > 0) & np.isin(material.form[material.item], MINED) & (material.label != material.alerting))
    logits = run_network(network, material, rows)
    score = np.exp(logits[:, material.alerting] - np.logaddexp.reduce(logits, 1))
    lifted = train.copy()
    lifted[rows] *= 1 + strength * score
    return lifted


def fit_network(material, train, seed, examples, batch=64, rate=3e-3, hard=4.0, mine=20.0, smoothing=0.05, tell=None):
    """`train`: rows to draw from, with their weights elsewhere zero. For the second half of the
    steps, background is drawn more often the more it scores as an alert by then."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = Network(len(material.classes)).to(memory_format=torch.channels_last)
    kept = Network(len(material.classes)).eval()
    kept.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    steps = examples // batch
    half = steps // 2 if mine else steps
    rows = draw(train, rng, half * batch)
    network.train()
    for step in range(steps):
        if step == half:
            rows = np.concatenate([rows, draw(mined(network, material, train, mine), rng, (steps - half) * batch)])
            network.train()
        for group in optimiser.param_groups:
            group["lr"] = cycle(step, steps, rate)
        own = rows[step * batch : (step + 1) * batch]
        # Where in the patch an onset falls must not matter.
        patch = augment(material.patches(own, rng.integers(-4, 5, batch)), rng)
        label = torch.from_numpy(material.label[own])
        soft = F.one_hot(label, len(material.classes)).float()
        x = torch.from_numpy(np.ascontiguousarray(patch, np.float32))
        # Mixing two sounds also mixes what they are.
        share = float(rng.beta(0.2, 0.2))
        share = max(share, 1 - share)
        order = torch.from_numpy(rng.permutation(batch))
        x = share * x + (1 - share) * x[order]
        soft = share * soft + (1 - share) * soft[order]
        soft = (1 - smoothing) * soft + smoothing / len(material.classes)
        logits = network(x.to(memory_format=torch.channels_last))
        with torch.no_grad():
            alert = torch.softmax(logits, 1)[:, material.alerting]
            weight = 1 + hard * alert * (1 - soft[:, material.alerting])
        loss = -(soft * F.log_softmax(logits, 1)).sum(1)
        loss = (loss * weight).sum() / weight.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average(kept, network, 1.0 if step < steps // 2 else 1 / 60)
        if tell and step % 50 == 49:
            tell(step + 1, steps, loss.item())
    return kept


@torch.no_grad()
def run_network(network, material, rows, batch=256):
    network = network.eval().to(memory_format=torch.channels_last)
    out = [
        network(torch.from_numpy(material.patches(rows[i : i + batch]).astype(np.float32)).to(memory_format=torch.channels_last))
        for i in range(0, len(rows), batch)
    ]
    return torch.cat(out).numpy() if out else np.zeros((0, len(material.classes)), np.float32)


class Scaled:
    """A net on standardised numbers."""

    def __init__(self, net, mean, scale):
        self.net, self.mean, self.scale = net, mean, scale

    def standard(self, numbers):
        return np.clip((numbers - self.mean) * self.scale, -NUMBER_LIMIT, NUMBER_LIMIT).astype(np.float32)

    @torch.no_grad()
    def __call__(self, numbers):
        return self.net.eval()(torch.from_numpy(self.standard(numbers))).numpy()


def fit_numbers(material, numbers, train, seed, examples, alerting, batch=256, rate=2e-3, hard=4.0, smoothing=0.02, hidden=64):
    rng = np.random.default_rng(1000 + seed)
    torch.manual_seed(1000 + seed)
    own = numbers[train > 0]
    spread = own.std(0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
    fitted = Scaled(Numbers(numbers.shape[1], len(material.classes), hidden), own.mean(0), scale)
    standard = torch.from_numpy(fitted.standard(numbers))
    label = torch.from_numpy(material.label)
    optimiser = torch.optim.AdamW(fitted.net.parameters(), lr=rate, weight_decay=0.05)
    steps = examples // batch
    rows = torch.from_numpy(draw(train, rng, steps * batch))
    fitted.net.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = cycle(step, steps, rate)
        at = rows[step * batch : (step + 1) * batch]
        x = standard[at] + 0.1 * torch.randn(batch, numbers.shape[1])
        loss = loss_of(fitted.net(x), label[at], alerting, smoothing, hard)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return fitted
