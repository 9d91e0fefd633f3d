"""The interface of a method: three decisions, written as one small frozen dataclass.

Throughout wtkit a layer's feedback weights have the shape of its forward weights W: the tensor that
the code calls ``B`` is the paper's Bᵀ.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Nothing here imports torch, so that a configuration can be checked without it.

NORMALISATIONS = ("exact", "fixed", "learned", "none")
"""What δ is multiplied by where it passes a normalisation: γ, a fixed b, a b that the method makes
and learns by its own rule, or 1."""


class Method(ABC):
    """A way to send δ back, and to learn the weights that δ passes through.

    A method makes three decisions:

    1. *What does a layer send back?* Its δ, through :meth:`feedback_weights` in place of W. If
       those are None, it sends nothing. With ``direct``, it sends the output layer's δ, through
       weights that lead straight from the output to the layer.
    2. *How does B learn in engaged mode?* By default it does not. With ``learns_engaged``, B is a
       parameter; before each optimizer step its gradient is set to W's (eq. 17) or, if
       ``has_own_gradient``, to the result of :meth:`feedback_gradient`. With ``direct`` as well,
       the backward pass gives B the product of the output layer's δ and the layer's input. With
       ``follows``, :meth:`follow` computes new feedback weights after each update of W.
    3. *How does B learn in mirror mode?* By default it does not. With ``learns_mirror``,
       :attr:`mirror_schedule` says when mirror steps are taken, and :meth:`mirror_update` computes
       one step.

    A subclass is a frozen dataclass. Its fields are the hyper-parameters. Its docstring states the
    equations, the reference and an example. Each method has its own file in this package; the
    file's name is the method's name in configurations.
    """

    label: ClassVar[str]
    """The method's name in figures and tables, e.g. ``"FA"``."""
    direct: ClassVar[bool] = False
    learns_engaged: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    learns_mirror: ClassVar[bool] = False
    mixes_neurons: ClassVar[bool] = False
    """Whether :meth:`feedback_gradient` mixes the rows of a layer's weights by something that is
    drawn once for each layer."""
    averages: ClassVar[bool] = False
    """Whether B averages over many small steps. It is then stored in float32 even if the weights
    have a lower precision, in which such steps round away."""
    LATER_OPTIONS: ClassVar[Mapping[str, Any]] = {}
    """Options added after release, with the values that reproduce earlier behaviour."""

    @property
    def name(self) -> str:
        """The method's name in configurations and data."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def recorded(self) -> dict[str, Any]:
        """The options as a run records them.

        Later options with their earlier value are left out, so older runs keep their record. A
        default that changes does appear.
        """
        options = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {
            name: value
            for name, value in options.items()
            if (name, value) not in self.LATER_OPTIONS.items()
        }

    # ---------------------------------------------------------------- 1. what a layer sends back

    @abstractmethod
    def initial(self, W: Tensor, generator: torch.Generator) -> Tensor | None:
        """What a layer stores for its feedback path, computed once at conversion.

        Args:
            W: the layer's forward weights, outputs first: ``W[i]`` are those of one neuron. The
                weights of layers that are stored otherwise, such as transposed convolutions, come
                as (neurons, inputs of one neuron). Use their scale, not their single values, unless
                the method is defined to transport something of them once. A ``direct`` method gets
                a stand-in with that scale, (outputs of the network, inputs of the layer).
            generator: the random stream of this layer's feedback path.

        Returns:
            a tensor (B in W's shape, or a number), or None to store nothing.
        """

    @abstractmethod
    def feedback_weights(self, W: Tensor, stored: Tensor | None) -> Tensor | None:
        """B: the weights that δ passes through, in W's shape.

        None sends nothing: the layers below then have no gradient, and no optimizer moves them.

        Args:
            W: the layer's current forward weights, in the shape in which the layer stores them.
            stored: the current value of what :meth:`initial` returned, in the same shape unless it
                is a number. With ``direct``, B has the shape of the W that :meth:`initial` got.
        """

    def of_scales(self) -> Method:
        """The method that gives the scales γ of normalisations their feedback, if these follow the
        method's own rule (``normalisation="learned"``): itself, unless it is ``direct``.

        A scale is a diagonal matrix, so one group of a single neuron with a single input for each
        entry. Its weights γ and its feedback weights b are tensors of any shape, often vectors.
        """
        return self

    def initial_of_scale(self, scale: Tensor, generator: torch.Generator) -> Tensor | None:
        """:meth:`initial` for a scale γ, (weights,).

        By default what :meth:`initial` draws, without its signs: γ starts at 1, and a random sign
        would turn half of δ around, with nothing but that one γ to make up for it.
        """
        stored = self.initial(scale, generator)
        return None if stored is None else stored.abs()

    def is_valid(self, stored: Tensor) -> bool:
        """Whether ``stored`` may come from this method. A checkpoint of another one may not."""
        return True

    # ------------------------------------------------------------- 2. how B learns in engaged mode

    @property
    def learns_from_W(self) -> bool:
        """Whether B learns from W's gradient or from the updated W. A ``direct`` B that learns in
        engaged mode does not: its gradient is of its own shape."""
        return self.follows or (self.learns_engaged and not self.direct)

    @property
    def source_of_B(self) -> str:
        """What B learns of W by, in a few words for :func:`wtkit.transport`."""
        if self.learns_mirror:
            return "noise in mirror mode"
        if self.follows:
            return "a rule of its own after each update of W"
        return "the same updates as W" if self.learns_from_W else "never"

    @property
    def has_own_gradient(self) -> bool:
        """Whether B's gradient is that of :meth:`feedback_gradient` and not W's."""
        return False

    @property
    def learns_as_W(self) -> bool:
        """Whether B gets all that W gets, so that it cancels in their difference; not if options
        give B its own gradient."""
        return self.learns_engaged and self.learns_from_W and not self.has_own_gradient

    def feedback_gradient(
        self, gradient: Tensor, B: Tensor, decay: float | Tensor, generator: torch.Generator
    ) -> Tensor:
        """B's gradient for the next step of SGD.

        Args:
            gradient: W's gradient in this step, as the layer stores W; of a method that
                ``mixes_neurons``, (groups, outputs of a group, inputs).
            B: the current feedback weights, in the same shape.
            decay: the weight decay; SGD itself adds ``decay * B`` to the result.
            generator: a random stream for this layer and update; of a method that
                ``mixes_neurons``, the layer's own on the CPU, the same in each update.
        """
        raise NotImplementedError

    def follow(self, W: Tensor, stored: Tensor, generator: torch.Generator, update: int) -> Tensor:
        """The new stored tensor after an update of W, for a method that ``follows``.

        Args:
            W: the layer's forward weights after the update.
            stored: the stored tensor so far.
            generator: a random stream for this layer and update.
            update: the number of this update of W, from 1.
        """
        raise NotImplementedError

    @property
    def lag(self) -> float:
        """Engaged steps over which B averages W, for a method whose B is an average; otherwise 0.

        B trails a moving W by about as many steps. ``wtkit plan`` warns of a long lag where it can
        make the loss diverge.
        """
        return 0.0

    def setting_of_lag(self, steps: float) -> str:
        """The setting at which B averages over ``steps`` engaged steps, as advice in words: ``rate:
        0.2``."""
        return f"a rate at which it averages over {steps:g}"

    # -------------------------------------------------------------- 3. how B learns in mirror mode

    @property
    def mirror_schedule(self) -> MirrorSchedule:
        """When mirror steps are taken, for a method that ``learns_mirror``."""
        raise NotImplementedError

    def mirror_samples(self, layer: MirroredLayer) -> int:
        """The number of noise samples that each neuron of ``layer`` responds to in a mirror
        step."""
        raise NotImplementedError

    def mirror_update(self, layer: MirroredLayer, B: Tensor) -> Tensor:
        """The feedback weights after one mirror step, for a method that ``learns_mirror``.

        Args:
            layer: the layer as a black box that responds to noise.
            B: the current feedback weights, outputs first; they may be changed in place and
                returned.
        """
        raise NotImplementedError


class MirrorSchedule(NamedTuple):
    """When a method takes mirror steps.

    Attributes:
        initial: mirror steps before training.
        every: engaged steps between two mirror phases.
        steps: mirror steps in each phase.
    """

    initial: int
    every: int
    steps: int

    def total(self, engaged_steps: int) -> int:
        """Mirror steps of a run with so many engaged steps.

        >>> MirrorSchedule(initial=100, every=4, steps=2).total(10)
        104
        """
        return self.initial + engaged_steps // self.every * self.steps


class MirroredLayer(Protocol):
    """A layer as its mirror sees it: noise goes in, a response comes out, and W stays hidden.

    A convolution is a set of neurons that see one patch at a time. Inputs that only ever meet
    padding (:func:`wtkit.feedback.find_live_taps`) receive no noise and are left out of ``inputs``,
    ``shape``, :meth:`live` and :meth:`matrices`. A neuron of a transposed convolution is a pixel of
    the output patch of one input position. Its inputs are the channels of that position; the
    positions fire one at a time.
    """

    groups: int
    """Groups of neurons with inputs of their own, as in a convolution: separate matrices."""
    inputs: int
    """Inputs of one neuron that can receive a signal."""
    fan_in: int
    """Inputs of one neuron, including those that only ever meet padding."""
    shape: torch.Size
    """The shape of the weights of those ``inputs``: ``live(B).shape``."""
    dtype: torch.dtype
    device: torch.device
    is_output: bool
    """Whether this is the network's last layer."""
    bias: Tensor | None
    """The neurons' biases, (groups, 1, outputs of a group); None also where each neuron has no
    bias of its own."""
    step: int
    """Mirror steps taken before this one."""
    running_mean_step: int | None
    """t = 1, 2, … where :func:`wtkit.mirror` was asked for a running mean; else None."""
    own_samples: slice
    """This process's part of the noise samples, where several processes train one run."""
    processes: int
    """The number of those processes."""

    def stream(self, *key: object) -> torch.Generator:
        """This layer's own random stream under ``key``, on its device. Use ``stream("noise",
        layer.step)`` for noise: all processes then draw the same samples."""

    def respond(self, noise: Tensor) -> Tensor:
        """W ξ, the summed input of each neuron, without bias and φ.

        Shapes: noise (groups, samples, inputs) to (groups, samples, outputs of a group).
        """

    def live(self, B: Tensor) -> Tensor:
        """A view of B without the weights of inputs that only ever meet padding."""

    def matrices(self, B: Tensor) -> Tensor:
        """:meth:`live` as (groups, outputs of a group, inputs)."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over all processes, in place."""

    in_channels: int
    """Channels of the images that a convolution sees; 0 for other layers."""
    kernel_reach: tuple[int, ...]
    """Pixels that a convolution's kernel spans in each dimension; () for other layers."""
    stride: tuple[int, ...]
    """The stride of a convolution; () for other layers."""

    def respond_to_images(self, images: Tensor, *, with_bias: bool) -> Tensor:
        """:meth:`respond` of a convolution to whole images, without padding: (N, channels, ...) to
        (N, outputs, ...)."""

    def image_product(self, response: Tensor, images: Tensor) -> Tensor:
        """The product of a response to images and those images, in B's shape, summed over
        positions."""


def white_noise(layer: MirroredLayer, samples: int) -> Tensor:
    """Standard normal noise for one mirror step of ``layer``: (groups, samples, inputs), of the
    samples those of this process."""
    import torch

    shape = (layer.groups, samples, layer.inputs)
    noise = torch.empty(shape, dtype=layer.dtype, device=layer.device)
    return noise.normal_(generator=layer.stream("noise", layer.step))[:, layer.own_samples]


def random_like(W: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian weights in W's shape with mean 0 and the root mean square of
    :func:`initial_scale`."""
    import torch

    draw = torch.randn(
        W.shape, generator=generator, dtype=torch.float32, device=generator.device
    ).to(W.device)
    return torch.empty_like(W).copy_(draw * initial_scale(W))


def magnitudes_like(W: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform positive weights in W's shape whose root mean square is exactly
    :func:`initial_scale`."""
    import torch

    draw = torch.rand(
        W.shape, generator=generator, dtype=torch.float32, device=generator.device
    ).to(W.device)
    return torch.empty_like(W).copy_(draw * (initial_scale(W) / draw.square().mean().sqrt()))


def initial_scale(W: Tensor) -> Tensor:
    """The root mean square of W, as a tensor without dimensions.

    If W is all zero, as in the last layer of some initialisations, it is 1/√fan_in: with zero
    weights δ would not pass at all.
    """
    import torch

    rms = W.detach().float().square().mean().sqrt()
    return torch.where(rms > 0, rms, W[0].numel() ** -0.5)
