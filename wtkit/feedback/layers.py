"""The common part of all feedback layers, the fully connected layer, and how to find the layers of
a model."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import cached

from ..errors import WtkitError
from ..methods import Method
from ..processes import ALONE, Share
from ..seeds import stream_seed
from .engaged import apply_direct, apply_engaged
from .follow import watch
from .initial import initial, refuse_weights
from .maps import FeaturesLast, LinearMaps, Maps, Taps
from .sharded import whole


class Weights(NamedTuple):
    """The weights that a layer multiplies by in one or several calls, ready for use.

    Attributes:
        B: the feedback weights; None means W.
        dtype: the precision of the products.
        sends: whether δ goes on to the layers below.
        casts: whether autocast casts the inputs.
    """

    W: Tensor
    B: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    sends: bool
    casts: bool


class FeedbackLayer(nn.Module):
    """The common part of all kinds of layer. :func:`convert` makes them; they have no constructor.

    Attributes:
        method: the layer's :class:`~wtkit.methods.Method`.
        feedback: stored feedback weights: a parameter whose gradient the optimizer hook sets (if B
            learns in engaged mode), a buffer, or None.
        is_output: whether this is the network's last layer.
        seed: the seed of the layer's own random streams.
        mirror_count: the number of mirror steps so far; the noise depends on it.
        update_count: the number of updates of W in which the method drew random numbers or followed
            W; the draws depend on it.
        outputs: the number of outputs of the network, for direct feedback.
        converted_shape: the shape of ``weight`` at conversion.
        drawn: whether ``feedback`` has values; False while the weights are on the meta device.
        examples_first: whether inputs are known to have examples before positions, because no
            module of the model expects the reverse.
        steps_first: whether inputs and outputs with three dimensions are (steps, examples,
            features).
        taps: the part of ``weight`` that a signal can pass, as found by
            :func:`wtkit.feedback.find_live_taps`; before that call, all of it.
    """

    method: Method
    feedback: Tensor | None
    weight: Tensor
    bias: Tensor | None
    is_output: bool
    seed: int
    mirror_count: int
    update_count: int
    taps: Taps
    outputs: int | None = None
    converted_shape: tuple[int, ...] = ()
    drawn: bool = True
    steps_first: bool = False
    examples_first: bool = True
    is_scale: ClassVar[bool] = False
    """Whether W is the scale of a normalisation: a diagonal, not a matrix."""

    @property
    def sketch(self) -> str:
        """Kind and shape, for errors: ``FeedbackLinear(5, 6)``."""
        return f"{type(self).__name__}{tuple(self.weight.shape)}"

    @property
    def batch_dims(self) -> int:
        """The least number of dimensions of a batch of inputs, or of outputs."""
        return 2

    @property
    def fan_in(self) -> int:
        """The inputs of one neuron."""
        shape = torch.empty(self.weight.shape, device="meta")
        return self.maps.matrices(shape).shape[2]

    @property
    def kind(self) -> str:
        """The kind of layer, as results have it: ``Linear``."""
        return type(self).__name__.removeprefix("Feedback")

    @property
    def B(self) -> Tensor | None:
        """The weights that δ travels through, in the shape of ``weight``; for backprop, ``weight``
        itself.

        None if nothing is sent back. For direct feedback the shape is (outputs, inputs of the
        layer).
        """
        self.settle()
        W, stored = whole(self.weight), self.feedback
        return self._B(W, None if stored is None else whole(stored))

    def _B(self, W: Tensor, stored: Tensor | None) -> Tensor | None:
        if stored is not None and W.shape != self.converted_shape and not self._fits(W, stored):
            raise self._does_not_fit(stored)
        B = self.method.feedback_weights(W, stored)
        return B if B is None or B.dtype == W.dtype else B.to(W.dtype)

    def stream(self, *key: object) -> torch.Generator:
        """The layer's own random stream under ``key``, on the layer's device."""
        return torch.Generator(self.weight.device).manual_seed(stream_seed(self.seed, *key))

    @property
    @abstractmethod
    def maps(self) -> Maps:
        """The layer's forward map, feedback map and weight product."""

    def weight_parameter(self) -> nn.Parameter | None:
        """The parameter that is W, or None where W is computed from other tensors."""
        return self._parameters.get("weight")

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        if not torch.is_grad_enabled() or not isinstance(input, Tensor):
            return self.plain_forward(input, *others, **named)
        if self.weight_parameter() is not None:
            return self.send(input, *others, **named)
        with cached():  # computed once: a spectral norm takes a step of its own each time
            return self.send(input, *others, **named)

    def plain_forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The forward pass of the plain layer."""
        return super().forward(*inputs, **named)

    @abstractmethod
    def send(self, y: Tensor) -> Tensor:
        """The forward pass of an input as a plain layer takes it."""

    def engaged(
        self, y: Tensor, weights: Weights | None = None, maps: Maps | None = None
    ) -> Tensor:
        """Eq. 1, recorded for a backward pass that follows the method.

        Args:
            y: in the shape that the maps take.
            weights: those of :meth:`ready`, where a caller keeps or changes them.
            maps: where they are not the layer's :attr:`maps`.
        """
        W, B, bias, dtype, sends, casts = self.ready(y) if weights is None else weights
        maps = self.maps if maps is None else maps
        if not sends:  # δ ends here
            y = y.detach()
        if not casts:
            return self._apply_engaged(y, W, B, bias, maps, dtype)
        y = y.to(dtype) if autocast_casts(y) else y  # what it leaves alone, the product refuses
        torch.set_autocast_enabled(y.device.type, False)  # torch.autocast takes 7 µs more
        try:
            return self._apply_engaged(y, W, B, bias, maps, dtype)
        finally:
            torch.set_autocast_enabled(y.device.type, True)

    def ready(self, y: Tensor) -> Weights:
        """W, B and the bias for inputs such as y, in the precision that autocast asks for.

        Raises:
            WtkitError: for inputs and weights that a feedback layer cannot take.
        """
        W, bias, stored = self.weight, self.bias, self.feedback
        if not self._is_usual(y, W, stored):
            self._refuse_unusual(y)
            self.settle()
            stored = self.feedback
        B = self._B(W, stored)
        is_stored, sends = B is stored, B is not None
        B = None if B is W else B  # from here on None stands for W
        if B is not None and not self.method.direct:
            if B.shape != W.shape:
                raise self._does_not_fit(stored)
            B = B.detach()
        device = y.device.type
        if not torch.is_autocast_enabled(device) or not autocast_casts(W):
            return Weights(W, B, bias, W.dtype, sends, False)
        dtype = torch.get_autocast_dtype(device)
        bias = None if bias is None else bias.to(dtype)
        # save the backward weights in this precision, unless they are stored anyway
        if B is None:
            W = W.to(dtype)
        elif not is_stored:
            B = B.to(dtype)
        return Weights(W, B, bias, dtype, sends, True)

    def _apply_engaged(
        self,
        y: Tensor,
        W: Tensor,
        B: Tensor | None,
        bias: Tensor | None,
        maps: Maps,
        dtype: torch.dtype,
    ) -> Tensor:
        if self.method.direct:
            is_clear = self.examples_first or not isinstance(maps, FeaturesLast)
            return apply_direct(y, W, B, bias, maps, dtype, self.is_output, is_clear)
        return apply_engaged(y, W, B, bias, maps, dtype)

    def by_example(self, delta: Tensor) -> Tensor:
        """A δ of this layer, examples first."""
        return delta.transpose(0, 1) if self.steps_first and delta.dim() == 3 else delta

    def initial_feedback(self) -> Tensor | None:
        """What the method stores for the feedback path of this layer, drawn anew from its seed."""
        return initial(self.method, self, self.maps, self.seed, self.outputs)

    def settle(self) -> None:
        """Draw what is stored for the feedback path, once the weights have come from the meta
        device.

        Raises:
            WtkitError: if B is on another device than W.
        """
        stored, W = self.feedback, self.weight
        if not self.drawn and not W.is_meta:
            values = self.initial_feedback()
            if stored is None or stored.is_meta:
                self.store(values)
            elif values is not None:
                stored.detach().copy_(values)  # in place: an optimizer may hold it
            self.drawn = True
        elif stored is not None and stored.device != W.device and stored.dim() > 0:
            raise WtkitError(
                f"{self.method.name}: 'weight' of {self.sketch} is on {W.device}, 'feedback' on "
                f"{stored.device}; move the model as a whole: model.to({str(W.device)!r})"
            )

    def store(self, stored: Tensor | None) -> None:
        """Store ``stored`` for the feedback path, as a parameter if B learns in engaged mode."""
        if stored is not None and self.method.averages and stored.dtype.itemsize < 4:
            stored = stored.float()
        if self.method.learns_engaged and stored is not None:
            # the backward pass gives a direct B its gradient; others get theirs before a step
            parameter = nn.Parameter(stored, requires_grad=self.method.direct)
            self.register_parameter("feedback", parameter)
        else:
            self.register_buffer("feedback", stored)

    def _apply(self, fn, recurse=True):  # reached by .to(), .half(), .to_empty() and the like
        before = self.feedback
        super()._apply(fn, recurse)
        after = self.feedback
        if after is None or before is None:
            return self
        self.drawn = self.drawn and not after.is_meta
        if self.method.averages and after.dtype.itemsize < 4:
            self.store(before.to(after.device, torch.float32))
        return self

    def refuse_computed_weight(self) -> None:
        """Raise if W is computed from other tensors, and B learns from what W's updates are.

        Such a W is no parameter: it has no gradient and no step that B could follow.

        Raises:
            WtkitError: naming the layer.
        """
        method = self.method
        if not method.learns_from_W or self.weight_parameter() is not None:
            return
        if not getattr(self, "_is_replica", False):  # DataParallel's copies have no parameters
            raise WtkitError(
                f"{method.name}: 'weight' of {self.sketch} is computed from other tensors, by "
                "pruning or a parametrization, so B cannot follow it; remove that "
                "(torch.nn.utils.prune.remove, parametrize.remove_parametrizations), or take a "
                "method whose B does not learn from W's updates"
            )

    def _is_usual(self, y: Tensor, W: Tensor, stored: Tensor | None) -> bool:
        """Whether nothing has to be refused, or drawn first. Asked in every forward pass, so it
        only reads attributes."""
        return (
            y.layout is torch.strided
            and not y.is_nested
            and not W.is_complex()
            and self.weight_parameter() is not None
            and self.drawn
            and (stored is None or stored.device == W.device)
            and (stored is None or self.method.direct or not stored.requires_grad)
        )

    def _refuse_unusual(self, y: Tensor) -> None:
        """Raise for inputs and weights that a plain layer may take and a feedback layer cannot.

        Raises:
            WtkitError: for a sparse or nested input; for complex or computed weights; for a B that
                DistributedDataParallel would wait for.
        """
        refuse_weights(self.method.name, self)
        self.refuse_computed_weight()
        if isinstance(self.feedback, nn.Parameter) and not self.method.direct:
            self._refuse_reducer()
        if y.layout is not torch.strided or y.is_nested:
            kind = "nested" if y.is_nested else str(y.layout).removeprefix("torch.")
            dense = "torch.nested.to_padded_tensor(x, 0.0)" if y.is_nested else "x.to_dense()"
            raise WtkitError(
                f"{self.method.name}: {self.sketch} takes dense inputs, got a {kind} tensor; "
                f"give it {dense}"
            )

    def _fits(self, W: Tensor, stored: Tensor) -> bool:
        """Whether ``stored`` was changed together with W, which has no longer the shape that it had
        at conversion."""
        if not self.method.direct:
            return stored.shape == W.shape
        inputs, outputs = self.maps.features(W)
        return stored.shape == (outputs if self.is_output else self.outputs, inputs)

    def _does_not_fit(self, stored: Tensor | None) -> WtkitError:
        """The error for feedback weights that a later change of W has left behind."""
        shape = None if stored is None else tuple(stored.shape)
        return WtkitError(
            f"{self.method.name}: 'feedback' of {self.sketch} has the shape {shape}, made for a "
            f"'weight' of {self.converted_shape}; change shapes before wtkit.convert, or convert "
            "again"
        )

    def _refuse_reducer(self) -> None:
        """Refuse a B that requires a gradient inside DistributedDataParallel, which would wait for
        one from the backward pass; B is handed W's."""
        assert self.feedback is not None
        wrapped = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
        if self.feedback.requires_grad and wrapped is not None:
            raise WtkitError(
                f"{self.method.name}: 'feedback' of {self.sketch} requires a gradient, for which "
                "DistributedDataParallel would wait; before wrapping the model, set "
                "requires_grad_(False) for the parameters whose names end in 'feedback'"
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method.name}"

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata["method"] = self.method.name
            metadata["counts"] = [self.mirror_count, self.update_count]

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        # a plain checkpoint has no feedback weights; the present ones then stay
        given = state_dict.get(f"{prefix}feedback")
        if given is not None and self.feedback is not None:
            self._refuse_of_another_method(given, f"{prefix}feedback", metadata.get("method"))
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        with contextlib.suppress(ValueError):
            missing.remove(f"{prefix}feedback")
        stored = self.feedback
        if given is not None and stored is not None:
            self.drawn = not stored.is_meta
            if self.method.averages and stored.dtype.itemsize < 4:
                self.store(stored.detach())  # the checkpoint's own tensor was assigned
        if metadata.get("method") == self.method.name and "counts" in metadata:
            # of random numbers drawn so far, so that a training that continues draws others
            self.mirror_count, self.update_count = map(int, metadata["counts"])
        self.settle()

    def _refuse_of_another_method(self, given: Tensor, key: str, saved: str | None) -> None:
        """Refuse the feedback weights of a checkpoint that another method saved.

        Args:
            given: the checkpoint's tensor.
            key: its name.
            saved: the method's name in the checkpoint; None in files that do not record it.
        """
        name = self.method.name
        if saved not in (None, name):
            reason = f"the checkpoint was saved with the method {saved}"
        elif not given.is_meta and not self.method.is_valid(given):
            reason = "its values are not of this method"
        else:
            return
        raise WtkitError(
            f"{key!r}: {reason}, the model has {name}; convert the model to the checkpoint's "
            "method, or leave the keys that end in 'feedback' out to load the weights alone"
        )

    def __setstate__(self, state):  # reached by copy.deepcopy and by unpickling
        super().__setstate__(state)
        watch(self)


class FeedbackLinear(FeedbackLayer, nn.Linear):  # type: ignore[misc]  # torch says its bias is never None
    """``nn.Linear`` with a feedback path."""

    @property
    def maps(self) -> LinearMaps:
        return LinearMaps()

    def send(self, y: Tensor, weights: Weights | None = None) -> Tensor:
        return self.engaged(y, weights)


class FeedbackProjection(FeedbackLinear, NonDynamicallyQuantizableLinear):  # type: ignore[misc]
    """The output projection of ``nn.MultiheadAttention`` with a feedback path."""

    kind = "Linear"


def autocast_casts(tensor: Tensor) -> bool:
    """Whether autocast casts ``tensor`` before a product: float64 and integers it leaves alone."""
    return tensor.is_floating_point() and tensor.dtype is not torch.float64


def of_one_precision(y: Tensor, W: Tensor) -> bool:
    """Whether y and W have the same precision, or autocast gives them the same."""
    if y.dtype == W.dtype:
        return True
    return torch.is_autocast_enabled(y.device.type) and autocast_casts(y) and autocast_casts(W)


TWINS: dict[type[nn.Module], type[FeedbackLayer]] = {}
"""The feedback layer of each kind of plain layer."""
PLAIN: dict[type[nn.Module], type[nn.Module]] = {}
"""The plain layer of each kind of feedback layer."""


def add_kind(plain: type[nn.Module], twin: type[FeedbackLayer]) -> None:
    """Let :func:`~wtkit.convert` turn layers of the class ``plain`` into ``twin``, a subclass of it
    and of :class:`FeedbackLayer`."""
    TWINS[plain], PLAIN[twin] = twin, plain


_HARMLESS = frozenset({"__init__", "reset_parameters", "extra_repr", "__repr__"})
"""What a subclass may define otherwise than its base, and still multiply by its weights alike."""


def inherits(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether modules of ``kind``, a subclass of ``base``, are called as those of ``base`` are:
    whether it overrides nothing but how a module is made and shown."""
    added = [each for each in kind.__mro__ if each not in base.__mro__]
    of_any_class = vars(type("", (), {})).keys()
    names = {name for each in added for name in vars(each)} - of_any_class
    own = names - _HARMLESS - {"__orig_bases__", "__parameters__"}
    return not any(hasattr(base, name) or name in ("weight", "bias") for name in own)


def twin_of_kind(kind: type[nn.Module]) -> type[FeedbackLayer] | None:
    """The feedback layer of a plain ``kind``; None for a kind that has none. A subclass that
    inherits all from its base has one like its base."""
    if kind in TWINS or issubclass(kind, FeedbackLayer):
        return TWINS.get(kind)
    base = next((each for each in kind.__mro__ if each in TWINS), None)
    if base is not None and inherits(kind, base):
        body = {"__module__": kind.__module__}
        add_kind(kind, type(f"Feedback{kind.__name__}", (MadeLater, TWINS[base], kind), body))
    return TWINS.get(kind)


class MadeLater:
    """The common part of feedback layers whose class is made while a program runs: copies and
    pickles find it by the plain class."""

    def __reduce_ex__(self, protocol):
        _, arguments, *state = super().__reduce_ex__(protocol)
        return _empty, (PLAIN[type(self)], *arguments[1:]), *state  # type: ignore[index]


def _empty(kind: type[nn.Module], *arguments: Any) -> FeedbackLayer:
    """A feedback layer before its state is set."""
    twin = twin_of_kind(kind)
    if twin is None:
        raise WtkitError(
            f"{kind.__name__} is not registered here; before loading, call "
            f"wtkit.feedback.register({kind.__name__}, its maps)"
        )
    return twin.__new__(twin, *arguments)


def maps_of(layer: nn.Module) -> Maps:
    """The maps of a layer, converted or not."""
    kind = twin_of_kind(type(layer)) or type(layer)
    return kind.maps.fget(layer)  # type: ignore[attr-defined]  # it reads a plain layer's attributes


add_kind(nn.Linear, FeedbackLinear)
add_kind(NonDynamicallyQuantizableLinear, FeedbackProjection)


def feedback_layers(model: nn.Module, *, scales: bool = False) -> dict[str, FeedbackLayer]:
    """The converted layers of ``model`` by module name, in the order of registration.

    That is the order in which ``__init__`` assigns them, mostly from the input up. A model whose
    ``forward`` calls them in another order keeps the order of registration;
    :func:`~wtkit.feedback.fed_layers` tells which layer feeds which.

    Args:
        model: may be wrapped by ``torch.compile``, DistributedDataParallel or DataParallel.
        scales: also the normalisations whose scale has a feedback path of its own
            (``convert(..., normalisation=...)``).

    >>> import torch, wtkit
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> list(feedback_layers(wtkit.convert(model, "feedback_alignment")))
    ['0', '2']
    """
    return {
        name: module
        for name, module in unwrap(model).named_modules()
        if isinstance(module, FeedbackLayer) and (scales or not module.is_scale)
    }


def refuse_without_values(name: str, layers: Mapping[str, FeedbackLayer]) -> None:
    """Raise for weights on the meta device, in the function ``name``."""
    for where, layer in layers.items():
        if layer.weight.is_meta:
            raise WtkitError(
                f"{name}: 'weight' of {where or 'the model'!r} is on the meta device and has no "
                "values; load them first: model.load_state_dict(..., assign=True)"
            )


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside any nesting of ``torch.compile``, DistributedDataParallel and
    DataParallel."""
    *_, inner = _unwrapped(model)
    return inner


def share_of(model: nn.Module) -> Share:
    """This process's share of the work of a DistributedDataParallel; without one, all of it."""
    for module in _unwrapped(model):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            group = module.process_group
            return Share(
                torch.distributed.get_rank(group), torch.distributed.get_world_size(group), group
            )
    return ALONE


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """``model``, the module it wraps, the module that one wraps, and so on."""
    yield model
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        yield from _unwrapped(model._orig_mod)
    elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        yield from _unwrapped(model.module)
