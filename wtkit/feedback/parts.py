"""Layers whose weights another module holds: the projections of attention, the inputs of a gate.

``nn.LSTM`` itself multiplies by ``weight_ih_l0`` and ``weight_hh_l0``; there is no ``nn.Linear`` to
convert. A :class:`FeedbackPart` represents one such multiplication. It is a child of the module
that holds W, its *owner*, and adds only B to it. W stays a parameter of the owner, under the same
name.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import cached

from ..errors import WtkitError
from .follow import watch
from .layers import FeedbackLayer, Weights
from .maps import LinearMaps


class Held(NamedTuple):
    """Where an owner holds the weights of a part.

    Attributes:
        weight: the name of W among the owner's parameters.
        bias: the name of the bias, and …
        rows: … its elements that belong to this part.
    """

    weight: str
    bias: str | None = None
    rows: slice | None = None


class FeedbackPart(FeedbackLayer):
    """A multiplication by weights that its owner holds, with a feedback path.

    Attributes:
        name: the name of the part in its owner; its B is ``<owner>.<name>.feedback``.
        held: the names of its weights in the owner.
    """

    def __init__(self, owner: nn.Module, name: str, held: Held) -> None:
        super().__init__()
        self.name, self.held = name, held
        self.bind(owner)

    def bind(self, owner: nn.Module) -> None:
        """Take W from ``owner``. The reference is weak: a model without cycles is freed at once."""
        self.__dict__["_owner"] = weakref.ref(owner)

    def _owner_or_none(self) -> nn.Module | None:
        reference = self.__dict__.get("_owner")
        return None if reference is None else reference()

    @property
    def owner(self) -> nn.Module:
        owner = self._owner_or_none()
        if owner is None:
            raise WtkitError(
                f"{self.held.weight!r} belongs to a module that is gone; copy or keep that module, "
                "not its part alone"
            )
        return owner

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # the owner's, so it cannot be set here
        return getattr(self.owner, self.held.weight)

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return weights_of(self.owner, self.held)[1]

    def weight_parameter(self) -> nn.Parameter | None:
        owner = self._owner_or_none()
        return None if owner is None else owner._parameters.get(self.held.weight)

    @property
    def kind(self) -> str:
        """The kind of the owner, ``LSTM``."""
        return getattr(self.owner, "plain", type(self.owner)).__name__

    @property
    def sketch(self) -> str:
        return f"{self.name}{tuple(self.weight.shape)}"

    @property
    def maps(self) -> LinearMaps:
        return LinearMaps()

    def send(self, y: Tensor, weights: Weights | None = None) -> Tensor:
        return self.engaged(y, weights)

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        return self.send(
            input, *others, **named
        )  # its owner has a pass of its own without gradients

    def ready(self, y: Tensor) -> Weights:
        if self.weight_parameter() is not None:
            return super().ready(y)
        with cached():  # computed once: a spectral norm takes a step of its own each time
            return super().ready(y)

    def extra_repr(self) -> str:
        return f"{self.held.weight}, method={self.method.name}"

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_owner"}

    def __setstate__(self, state):
        nn.Module.__setstate__(self, state)  # its owner then binds and watches it


class Owner(nn.Module):
    """A module that multiplies by weights of its own, or of its layers, without calling a layer.

    A subclass is the feedback twin of one kind of module. Its forward pass computes each product
    with the part for it.
    """

    plain: ClassVar[type[nn.Module]]
    """The kind of which this is the twin."""

    @classmethod
    def held(cls, module: nn.Module) -> dict[str, Held]:
        """The parts of ``module``, of the plain kind, from the input up."""
        return {}

    @classmethod
    def steps_first(cls, module: nn.Module) -> bool:
        """Whether the layers of ``module`` get steps before examples."""
        return False

    @classmethod
    def refuses_direct(cls, module: nn.Module) -> tuple[list[str], str] | None:
        """What in ``module`` cannot take the δ of the output layer, as names inside it, and why."""
        return None

    def bound(self, name: str) -> FeedbackPart | None:
        """The part ``name``; None if it stays on backprop."""
        part = self._modules.get(name)
        if part is None:
            return None
        assert isinstance(part, FeedbackPart)
        if part._owner_or_none() is not self:  # this is a copy: DataParallel makes shallow ones
            part.bind(self)
        return part

    def product(self, name: str, y: Tensor, rows: slice | None = None) -> Tensor:
        """W y + b for the part ``name``, or for some rows of its W."""
        part = self.bound(name)
        if part is not None:
            return part(y) if rows is None else part(y, weights=rows_of(part.ready(y), rows))
        W, bias = weights_of(self, self.held(self)[name])
        if rows is not None:
            W, bias = W[rows], None if bias is None else bias[rows]
        return F.linear(y, W, bias)

    def __setstate__(self, state):  # reached by copy.deepcopy and by unpickling
        super().__setstate__(state)
        for part in parts(self):
            part.bind(self)
            watch(part)


def rows_of(weights: Weights, rows: slice) -> Weights:
    """Some rows of W with theirs of B and of the bias. A direct B has no rows of W's."""
    W, B, bias = weights.W, weights.B, weights.bias
    return weights._replace(
        W=W[rows],
        B=B[rows] if B is not None and B.shape == W.shape else B,
        bias=None if bias is None else bias[rows],
    )


def weights_of(owner: nn.Module, held: Held) -> tuple[Tensor, Tensor | None]:
    """W and bias of a part that ``owner`` holds."""
    bias = None if held.bias is None else getattr(owner, held.bias)
    if bias is not None and held.rows is not None:
        bias = bias[held.rows]
    return getattr(owner, held.weight), bias


def parts(owner: nn.Module) -> Iterator[FeedbackPart]:
    for child in owner.children():
        if isinstance(child, FeedbackPart):
            yield child


def attach(part: FeedbackPart) -> None:
    """Make ``part`` a child of its owner, before the owner's own children: δ passes those first."""
    own = part.owner._modules
    present = {name: child for name, child in own.items() if isinstance(child, FeedbackPart)}
    others = {name: child for name, child in own.items() if name not in present}
    own.clear()
    own.update({**present, part.name: part, **others})


def detach(part: FeedbackPart) -> None:
    """Undo :func:`attach`."""
    del part.owner._modules[part.name]
