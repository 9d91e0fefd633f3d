"""Whether a lagging B can make the loss diverge: at the edge of stability."""

from __future__ import annotations

from torch import nn

NORMALISATION = (
    nn.modules.batchnorm._NormBase,  # BatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softsign, nn.Hardsigmoid)
UNBOUNDED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Hardswish,
)  # fmt: skip


def tolerates_lag(model: nn.Module) -> bool:
    """Whether the network has normalisation layers, or activations that are all bounded.

    Either keeps the loss finite when B trails W. Functions called in ``forward`` are not seen.

    Example:
        >>> layers = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]
        >>> tolerates_lag(nn.Sequential(*layers))
        False
        >>> tolerates_lag(nn.Sequential(*layers, nn.LayerNorm(2)))
        True
    """
    modules = list(model.modules())
    if any(isinstance(module, NORMALISATION) for module in modules):
        return True
    bounded = any(isinstance(module, BOUNDED) for module in modules)
    return bounded and not any(isinstance(module, UNBOUNDED) for module in modules)
