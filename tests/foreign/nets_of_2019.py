"""Networks as a script of somebody else defines them; tests save them whole and then take this file away."""

import torch
from torch import nn


class Attention(nn.Module):
    """Spectral norm as torch had it in 2019, a lone parameter, and one buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.spectral_norm(nn.Conv1d(6, 6, 1, bias=False))
        self.gamma = nn.Parameter(torch.full((1,), 0.25))
        self.register_buffer("seen", torch.tensor(7))
        self.register_buffer("grid", torch.arange(5.0), persistent=False)
        self.register_buffer("mask", None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.again = self.stem[0]  # under two names, as tied weights are
        self.attention = Attention()
        self.fc = nn.Linear(6, 4)
        self.crop = nn.Parameter(torch.randn(9, 7).t()[1:5, 2:])  # on strides of its own
