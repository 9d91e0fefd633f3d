"""The parts of a run: the converted model, its optimizer, and data parallelism."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn

from .. import networks
from ..errors import WtkitError
from ..experiments import RunConfig, known_facts
from ..feedback import (
    FeedbackLayer,
    Transport,
    convert,
    convertible,
    feedback_layers,
    synchronise,
    transport,
)
from ..feedback.normalisation import SCALE_TWINS
from ..methods import Method


def convert_all(model: nn.Module, method: Method, config: RunConfig) -> None:
    """Convert ``model``. Layers kept on backprop become feedback layers with the method
    ``backprop``, so that they are measured like the others."""
    scales = (m for m in model.modules() if isinstance(m, tuple(SCALE_TWINS)))
    if config.normalisation != "exact" and all(scale.weight is None for scale in scales):
        raise WtkitError(
            f"setting 'normalisation': {config.network} has no scale γ, so "
            f"{config.normalisation!r} has no effect; leave it out"
        )
    convert(
        model,
        method,
        seed=config.seed,
        keep_on_backprop=config.keep_on_backprop,
        normalisation=config.normalisation,
    )
    if not feedback_layers(model):
        raise WtkitError(
            "setting 'keep_on_backprop': no layer is left for the method; take the method "
            "'backprop' instead"
        )
    for module in list(model.modules()):
        # attention that stays on backprop does not call its projection, and would not see its twin
        is_called = not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        if is_called and convertible(module) and not isinstance(module, FeedbackLayer):
            convert(module, "backprop", seed=config.seed)


def transport_of(config: RunConfig) -> Transport:
    """Which parameters the feedback path of a run's network uses, at its start: the report of
    :func:`wtkit.transport` on random images. Reads no data.

    Raises:
        WtkitError: if the size of the images is not known.
    """
    facts = known_facts(config)
    size = facts.image_size
    if size is None:
        raise WtkitError("setting 'image_size': not known for this data; give it in pixels")
    torch.manual_seed(config.seed)
    model = networks.build(config, num_classes=facts.classes or 10, image_size=size)
    convert_all(model, config.loaded_method(), config)
    return transport(model, torch.randn(4, 3, size, size))


def data_parallel(model: nn.Module, device: torch.device) -> nn.parallel.DistributedDataParallel:
    """``model`` with gradients averaged over all processes. Kolen–Pollack's B uses W's averaged
    gradient."""
    on_gpu = device.type == "cuda"
    if on_gpu:  # PyTorch has no SyncBatchNorm for CPUs
        synchronise(model)
    # warned of for 1×1 kernels, whose gradients' strides differ only along dimensions of size 1
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Buffers, B among them, are equal in all processes without being sent in every step. The
    # argument that switches the sending off has a new name since torch 2.15.
    named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
    # if a layer sends nothing back, the layers below have no gradient
    cut = any(layer.B is None for layer in feedback_layers(model).values())
    settings: dict[str, Any] = {
        "gradient_as_bucket_view": True,
        sync: False,
        "find_unused_parameters": cut,
    }
    if on_gpu:
        settings["device_ids"] = [device]
    return nn.parallel.DistributedDataParallel(model, **settings)


MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")
"""What SGD and AdamW keep for a parameter, in its shape."""


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters. Weight decay applies to forward and feedback weights, not
    to biases and BatchNorm."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    sgd = torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )
    if config.precision == "fp16" and config.momentum:
        # fused SGD leaves momentum uninitialised when its first step overflows
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give each moment the memory layout of its parameter.

    A checkpoint from another kind of device has another layout. Fused optimizers refuse it on a
    GPU, and on the CPU misread it as the parameter's.
    """
    for parameter, state in optimizer.state.items():
        for name in MOMENTS:
            if state.get(name) is not None:
                state[name] = torch.empty_like(parameter).copy_(state[name])
