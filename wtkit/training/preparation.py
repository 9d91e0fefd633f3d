"""What a run is made of: the converted model, its optimizer, and its share of data parallelism."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn

from ..errors import WtkitError
from ..experiments import RunConfig
from ..feedback import FeedbackLayer, convert, convertible, feedback_layers
from ..methods import Method


def convert_all(model: nn.Module, method: Method, config: RunConfig) -> None:
    """Convert ``model``; layers that stay on backprop too, so that they are measured like the
    others."""
    convert(model, method, seed=config.seed, backprop=config.backprop)
    if not feedback_layers(model):
        raise WtkitError(
            "setting 'backprop': no layer is left for the method; take the method "
            "'backprop' instead"
        )
    for module in list(model.modules()):
        if convertible(module) and not isinstance(module, FeedbackLayer):
            convert(module, "backprop", seed=config.seed)


def data_parallel(model: nn.Module, device: torch.device) -> nn.parallel.DistributedDataParallel:
    """``model`` with its gradients averaged over all processes. Kolen–Pollack's B, which is handed
    W's, needs none."""
    on_gpu = device.type == "cuda"
    if on_gpu:  # PyTorch has none for CPUs
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # said of 1×1 kernels, whose gradients' strides differ only along dimensions of one element
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Buffers are the same in all of them without being sent at every step; B is one of those. The
    # argument that says so has a new name since torch 2.15.
    named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
    # then what lies below has no gradient
    cut = any(layer.B is None for layer in feedback_layers(model).values())
    settings: dict[str, Any] = {
        "gradient_as_bucket_view": True,
        sync: False,
        "find_unused_parameters": cut,
    }
    if on_gpu:
        settings["device_ids"] = [device]
    return nn.parallel.DistributedDataParallel(model, **settings)


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """SGD over all parameters; weights, forward and feedback, decay, biases and BatchNorm do
    not."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    sgd = torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )
    if config.precision == "fp16" and config.momentum:
        # a fused first step whose gradients overflow leaves the momentum that it makes as the
        # memory was
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay momentum out in memory as its parameter is: a checkpoint of another kind of device has
    another layout, which fused SGD refuses on a GPU and takes for the parameter's on the CPU."""
    for parameter, kept in optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            kept["momentum_buffer"] = torch.empty_like(parameter).copy_(kept["momentum_buffer"])
