"""Networks as somebody might write them, for runs that name a class of their own."""

import contextlib
import functools
import socket
import threading
import urllib.request

import torch
from torch import nn
from torch.hub import load as from_hub
from torch.nn import functional as F

elsewhere = ("127.0.0.1", 9)
part_of_hub = functools.partial(from_hub, "owner/name")


class Small(nn.Module):
    """Convolutions without BatchNorm, and a hidden layer that another block repeats."""

    def __init__(self, num_classes, width=8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU()
        )
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        y = self.features(x).mean((2, 3))
        return self.head(y + torch.tanh(self.hidden(y)))


class Dropped(Small):
    """The same with dropout before its head, which notes what it drops in training."""

    dropped: list[list[bool]] = []  # noqa: RUF012  # of all objects

    def forward(self, x):
        y = F.dropout(self.features(x).mean((2, 3)), training=self.training)
        if self.training and torch.is_grad_enabled():
            self.dropped.append((y == 0).flatten().tolist())
        return self.head(y + torch.tanh(self.hidden(y)))


class PassesBy(Small):
    """Uses the weights of a layer without calling it."""

    def forward(self, x):
        y = self.features(x).mean((2, 3))
        return self.head(y + torch.tanh(F.linear(y, self.hidden.weight)))


class Unused(Small):
    """Has a layer that plays no part."""

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Two(Small):
    """Gives logits and something else."""

    def forward(self, x):
        return super().forward(x), x


class Maps(Small):
    """Forgets to average over positions."""

    def forward(self, x):
        return self.features(x)


class OwnMemory(nn.GRU):
    pass


class Recurrent(Small):
    """Has a module that cannot be converted."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.memory = OwnMemory(8, 8)


class Classless(nn.Module):
    """Takes no number of classes."""

    def __init__(self):
        super().__init__()


def number(num_classes):
    """Makes no network."""
    return num_classes


constant = 3


def fetched(num_classes):
    """Its host is a number, so that no name is looked up."""
    socket.create_connection(("127.0.0.1", 9))
    return Small(num_classes)


def slowly(num_classes):
    """Another thread of the program connects meanwhile."""
    thread = threading.Thread(target=lambda: socket.create_connection(elsewhere).close())
    thread.start()
    thread.join()
    return Small(num_classes)


def quietly_fetched(num_classes):
    """Goes on with what is here if it cannot connect."""
    with contextlib.suppress(Exception):
        urllib.request.urlopen("http://nowhere.invalid/weights.pt", timeout=1)
    return Small(num_classes)


class Still(Small):
    """All of it is frozen."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.requires_grad_(False)
