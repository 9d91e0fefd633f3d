"""What a method of sending error signals back is: three decisions, as a small frozen dataclass.

Throughout wtkit a layer's feedback weights are stored in the shape of its forward weights W: the
tensor that the code calls ``B`` is the paper's Bᵀ. This is the only place where the difference
matters.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Nothing here imports torch, so that a configuration can be checked without it.


class Method(ABC):
    """A way of sending δ back, and of learning the weights that it is sent through.

    The three decisions of a method:

    1. *What a layer sends back*: its δ, through :meth:`feedback_weights` in place of W; nothing,
       where those are None; or, with ``direct``, the output layer's δ, through weights that lead
       straight from the output to the layer.
    2. *How B learns in engaged mode*: not at all; with ``learns_engaged``, by the product that W
       learns by (eq. 17): B is then a parameter, which every optimizer's step is handed W's
       gradient for, or, where B is set ``apart``, what :meth:`handed` makes of it; or, with
       ``follows``, by :meth:`followed`, after every update of W.
    3. *How B learns in mirror mode*: not at all, or, with ``learns_mirror``, by eq. 7.

    A subclass is a frozen dataclass whose fields are its hyper-parameters and whose docstring is
    its equations. It stands in a file of its own in this package; the file's name is the method's
    name in configurations.
    """

    label: ClassVar[str]
    """How figures and tables call it, e.g. ``"FA"``."""
    direct: ClassVar[bool] = False
    learns_engaged: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    learns_mirror: ClassVar[bool] = False
    BEFORE: ClassVar[Mapping[str, Any]] = {}
    """Options that came later, each at the value that does what the method did before it had
    them."""

    @property
    def name(self) -> str:
        """The method's name in configurations and data."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def recorded(self) -> dict[str, Any]:
        """The options as a run records them: without those of ``BEFORE`` that change nothing, so
        that a run made before there was such an option is still known as the same; a default that
        is changed later is seen."""
        options = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {
            name: value
            for name, value in options.items()
            if (name, value) not in self.BEFORE.items()
        }

    @abstractmethod
    def initial(self, W: Tensor, generator: torch.Generator) -> Tensor | None:
        """What a layer keeps for its feedback path, at the moment of conversion.

        Args:
            W: the layer's forward weights; their scale may be used, not their values one by one. A
                ``direct`` method is given a stand-in of that scale, (outputs of the network, inputs
                of the layer).
            generator: the random stream of this layer's feedback path, apart from every other.

        Returns:
            a tensor (B in W's shape, or anything smaller), or None to keep nothing.
        """

    @abstractmethod
    def feedback_weights(self, W: Tensor, kept: Tensor | None) -> Tensor | None:
        """B, in W's shape: what δ travels through. ``kept`` is what :meth:`initial` gave, as it is
        now.

        None sends nothing: what lies below the layer is then handed no gradient at all, so that no
        optimizer moves it. With ``direct`` the shape is that which :meth:`initial` was given.
        """

    @property
    def apart(self) -> bool:
        """Whether a B that learns in engaged mode is handed anything but W's gradient itself:
        :meth:`handed`."""
        return False

    def handed(
        self, gradient: Tensor, B: Tensor, decay: float | Tensor, generator: torch.Generator
    ) -> Tensor:
        """The gradient of a B that is set ``apart`` from W, for a step of SGD.

        Args:
            gradient: W's, as the step is about to use it.
            decay: the step adds this times B to what is handed.
            generator: a random stream of this layer and this update.
        """
        raise NotImplementedError

    def followed(self, W: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
        """What a method that ``follows`` keeps once W has been updated, given what it kept until
        then.

        Args:
            W: the layer's forward weights, as they are now.
            generator: a random stream of this layer and this update.
        """
        raise NotImplementedError


def random_like(W: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian weights of W's shape, mean 0 and of :func:`initial_scale`, drawn from
    ``generator``."""
    import torch

    draw = torch.randn(
        W.shape, generator=generator, dtype=torch.float32, device=generator.device
    ).to(W.device)
    return torch.empty_like(W).copy_(draw * initial_scale(W))


def magnitudes_like(W: Tensor, generator: torch.Generator) -> Tensor:
    """Weights of W's shape, uniform above 0, whose root mean square is exactly
    :func:`initial_scale`."""
    import torch

    draw = torch.rand(
        W.shape, generator=generator, dtype=torch.float32, device=generator.device
    ).to(W.device)
    return torch.empty_like(W).copy_(draw * (initial_scale(W) / draw.square().mean().sqrt()))


def initial_scale(W: Tensor) -> Tensor:
    """The root mean square of W, a tensor without dimensions.

    Where W is all zero, as some initialisations leave a last layer, it is 1/√fan_in, because δ
    would not pass at all.
    """
    import torch

    rms = W.detach().float().square().mean().sqrt()
    return torch.where(rms > 0, rms, W[0].numel() ** -0.5)
