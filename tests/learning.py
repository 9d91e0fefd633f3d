"""A small network on digits, for what the literature says of a method: does it learn?"""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import wtkit


@functools.cache
def digits():
    """(1,797, 64) in 0..1, and the classes; the last 360 are held out."""
    loaded = load_digits()
    return torch.tensor(loaded.data / 16, dtype=torch.float32), torch.tensor(loaded.target)


@functools.cache
def digits_error(name, seed=0, epochs=8, width=24, **options):
    """Held-out error in % of a perceptron with two narrow hidden layers."""
    images, labels = digits()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)
    )
    wtkit.convert(model, name, seed=seed, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    if wtkit.methods.method_class(name).learns_mirror:
        wtkit.mirror(model, 50)
    for _ in range(epochs):
        for batch in torch.randperm(1437).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            if wtkit.methods.method_class(name).learns_mirror:
                wtkit.mirror(model)
    with torch.no_grad():
        wrong = model(images[1437:]).argmax(1) != labels[1437:]
    return 100 * float(wrong.float().mean())
