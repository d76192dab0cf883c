"""The compact network: depthwise-separable, mean and maximum over time."""

import torch
from torch import nn


class Separable(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.depth = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.depth_norm = nn.BatchNorm2d(inputs)
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.point_norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = torch.relu(self.depth_norm(self.depth(x)))
        return torch.relu(self.point_norm(self.point(x)))


class Network(nn.Module):
    """`[n, 2, 96, 48]` to `[n, outputs]` logits."""

    # Channels out, stride.
    BLOCKS = ((32, 2), (64, 2), (96, 1), (128, 1))
    STEM = 16

    def __init__(self, outputs, dropout=0.3):
        super().__init__()
        self.stem = nn.Conv2d(2, self.STEM, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(self.STEM)
        width, blocks = self.STEM, []
        for channels, stride in self.BLOCKS:
            blocks.append(Separable(width, channels, stride))
            width = channels
        self.blocks = nn.Sequential(*blocks)
        # What a band says depends on which one it is: learnt weights instead of a mean over bands.
        self.bands = nn.Conv2d(width, width, (1, 6), groups=width)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, outputs)

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.bands(self.blocks(x)))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.out(self.drop(x))


class Numbers(nn.Module):
    """The `transient` stream, standardised, to logits: one hidden layer."""

    def __init__(self, inputs, outputs, hidden=64, dropout=0.3):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.hidden(x))))


def multiplications(network):
    """Multiplications of one patch."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    network.eval()(torch.zeros(1, 2, 96, 48))
    for hook in hooks:
        hook.remove()
    return total
