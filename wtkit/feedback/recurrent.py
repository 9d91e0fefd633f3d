"""Recurrent networks with a feedback path: δ goes back through time by way of B.

With gradients enabled, the time steps are a loop in Python, because the fused kernels have no place
for B. The inputs of all steps are multiplied by their weights in one product before the loop.
Without gradients, torch's fused kernels run.

The cost of the loop: a training step on 128 steps of 256 features with batch 32 takes 1.2 times as
long as plain torch for RNN and GRU, and 1.5 times for LSTM, on a CPU (``docs/performance.md``). On
a GPU, where one time step takes a dozen small kernels, expect a larger ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .parts import Held, Owner

State = tuple[Tensor, ...]
"""h, (N, units); of an LSTM h, and c, (N, cells)."""
Product = Callable[[Tensor], Tensor]

_NO_STEP = (
    "is called once in every time step, so it is unclear which step's δ of the output layer it "
    "would receive"
)


# ----------------------------------------------------------------------------------- a step in time


def elman_step(drive: Tensor, state: State, recur: Product, phi: Product) -> State:
    """h' = φ(W_ih x + b_ih + W_hh h + b_hh). ``drive`` is W_ih x + b_ih."""
    return (phi(drive + recur(state[0])),)


def lstm_step(drive: Tensor, state: State, recur: Product, project: Product | None) -> State:
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'), where i, f, g, o = W_ih x + b_ih + W_hh h +
    b_hh. With a projection, h' is W_hr times that."""
    h, c = state
    i, f, g, o = (drive + recur(h)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if project is None else project(h)), c


def gru_step(drive: Tensor, state: State, recur: Product) -> State:
    """h' = (1 − z) n + z h with n = tanh(x_n + r h_n), r = σ(x_r + h_r), z = σ(x_z + h_z), where
    x_r, x_z, x_n = W_ih x + b_ih and h_r, h_z, h_n = W_hh h + b_hh."""
    (h,) = state
    x_r, x_z, x_n = drive.chunk(3, -1)
    h_r, h_z, h_n = recur(h).chunk(3, -1)
    n = ((x_r + h_r).sigmoid() * h_n + x_n).tanh()
    z = (x_z + h_z).sigmoid()
    return ((h - n) * z + n,)


class _Recurrent(Owner):
    """The common part of cells and whole networks."""

    @classmethod
    def refuses_direct(cls, module: nn.Module) -> tuple[list[str], str] | None:
        return [""], _NO_STEP

    def repeated(self, name: str, like: Tensor) -> Product:
        """W y + b for the part ``name``, to be called in every step: B is computed, and W cast,
        once."""
        part = self.bound(name)
        if part is None:
            return lambda y: self.product(name, y)
        weights = part.ready(like)
        if weights.casts:
            B = weights.B
            weights = weights._replace(
                W=weights.W.to(weights.dtype), B=None if B is None else B.to(weights.dtype)
            )
        return lambda y: part(y, weights=weights)

    def stepped(self, suffix: str, like: Tensor) -> Callable[[Tensor, State], State]:
        """The step of one layer and direction."""
        raise NotImplementedError


class _Elman(_Recurrent):
    nonlinearity: str

    def stepped(self, suffix: str, like: Tensor) -> Callable[[Tensor, State], State]:
        recur = self.repeated(f"hh{suffix}", like)
        phi = torch.relu if self.nonlinearity == "relu" else torch.tanh
        return lambda drive, state: elman_step(drive, state, recur, phi)


class _LongShortTerm(_Recurrent):
    proj_size = 0

    def stepped(self, suffix: str, like: Tensor) -> Callable[[Tensor, State], State]:
        recur = self.repeated(f"hh{suffix}", like)
        project = self.repeated(f"hr{suffix}", like) if self.proj_size else None
        return lambda drive, state: lstm_step(drive, state, recur, project)


class _Gated(_Recurrent):
    def stepped(self, suffix: str, like: Tensor) -> Callable[[Tensor, State], State]:
        recur = self.repeated(f"hh{suffix}", like)
        return lambda drive, state: gru_step(drive, state, recur)


# -------------------------------------------------------------------------------------------- cells


class _Cell(_Recurrent):
    """A single time step, with the parts ``ih`` and ``hh``."""

    input_size: int
    hidden_size: int

    @classmethod
    def held(cls, module: nn.Module) -> dict[str, Held]:
        assert isinstance(module, nn.RNNCellBase)
        return {
            each: Held(f"weight_{each}", f"bias_{each}" if module.bias else None)
            for each in ("ih", "hh")
        }

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As in the plain cell."""
        if not torch.is_grad_enabled() or not self._fits(input, hx):
            return super().forward(input, hx)  # without gradients; or to raise torch's own error
        is_batched = input.dim() == 2
        y = input if is_batched else input[None]
        state = _given(self, hx)
        if state is None:
            zeros = y.new_zeros(len(y), self.hidden_size)
            state = (zeros,) * (2 if isinstance(self, nn.LSTMCell) else 1)
        elif not is_batched:
            state = tuple(each[None] for each in state)
        state = self.stepped("", y)(self.product("ih", y), state)
        if not is_batched:
            state = tuple(each[0] for each in state)
        return state if isinstance(self, nn.LSTMCell) else state[0]

    def _fits(self, input: Tensor, hx: Any) -> bool:
        """False for what the plain cell refuses, too."""
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            return False
        state = _given(self, hx)
        expected = (*input.shape[:-1], self.hidden_size)
        return state is None or all(each.shape == expected for each in state)


class FeedbackRNNCell(_Elman, _Cell, nn.RNNCell):
    """``nn.RNNCell`` with a feedback path."""

    plain = nn.RNNCell


class FeedbackLSTMCell(_LongShortTerm, _Cell, nn.LSTMCell):
    """``nn.LSTMCell`` with a feedback path."""

    plain = nn.LSTMCell


class FeedbackGRUCell(_Gated, _Cell, nn.GRUCell):
    """``nn.GRUCell`` with a feedback path."""

    plain = nn.GRUCell


# ----------------------------------------------------------------------------------- whole networks


class _Sequence(_Recurrent, nn.RNNBase):
    """Layers over a sequence, with the parts ``ih_l0``, ``hh_l0``, ``ih_l0_reverse`` and so on;
    with projections also ``hr_l0``."""

    @classmethod
    def steps_first(cls, module: nn.Module) -> bool:
        return True

    @classmethod
    def held(cls, module: nn.Module) -> dict[str, Held]:
        assert isinstance(module, nn.RNNBase)
        return {
            name.removeprefix("weight_"): Held(
                name, name.replace("weight", "bias") if module.bias and "_hr_" not in name else None
            )
            for names in module._all_weights
            for name in names
            if name.startswith("weight_")
        }

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As in the plain module."""
        is_packed = isinstance(input, PackedSequence)
        if not torch.is_grad_enabled() or not (is_packed or self._fits(input, hx)):
            return super().forward(input, hx)  # without gradients; or to raise torch's own error
        if torch.compiler.is_compiling():
            return self._with_gradients(input, hx)
        # around a recurrent network torch breaks a graph: no steps are then compiled one by one
        return torch.compiler.disable(self._with_gradients)(input, hx)

    def _with_gradients(self, input: Any, hx: Any) -> Any:
        is_packed = isinstance(input, PackedSequence)
        given = _given(self, hx)
        if is_packed:
            return self._packed(input, given)
        is_batched = input.dim() == 3
        y = input if is_batched else input.unsqueeze(self._batch_dim)
        if given is not None and not is_batched:
            given = tuple(each.unsqueeze(1) for each in given)
        states = self._checked(y, given, None)
        out, states = self._run(y.transpose(0, 1) if self.batch_first else y, states, None)
        out = out.transpose(0, 1) if self.batch_first else out
        if not is_batched:
            out = out.squeeze(self._batch_dim)
            states = tuple(each.squeeze(1) for each in states)
        return out, self._as_taken(states)

    def _packed(self, packed: PackedSequence, given: State | None) -> tuple[PackedSequence, Any]:
        """Sequences of several lengths, the longest first. They run padded: what follows the end of
        one changes nothing, and no δ comes from there."""
        data, sizes, order, back = packed
        if given is not None:
            given = tuple(_permuted(each, order) for each in given)
        states = self._checked(data, given, sizes)
        y, lengths = pad_packed_sequence(PackedSequence(data, sizes))
        steps = torch.arange(len(y), device=y.device)[:, None, None]
        out, states = self._run(y, states, steps < lengths.to(y.device)[None, :, None])
        out = pack_padded_sequence(out, lengths).data
        states = tuple(_permuted(each, back) for each in states)
        return PackedSequence(out, sizes, order, back), self._as_taken(states)

    def _run(self, y: Tensor, states: State, live: Tensor | None) -> tuple[Tensor, State]:
        """All layers and directions.

        Args:
            y: the inputs, (L, N, in).
            states: each (layers · directions, N, units).
            live: which steps are inside their sequence, (L, N, 1), if not all are.
        """
        directions = 2 if self.bidirectional else 1
        ends: list[State] = []
        for layer in range(self.num_layers):
            outs = []
            for suffix in [f"_l{layer}", f"_l{layer}_reverse"][:directions]:
                state = tuple(each[len(ends)] for each in states)
                out, end = self._through_time(suffix, y, state, live)
                outs.append(out)
                ends.append(end)
            y = outs[0] if directions == 1 else torch.cat(outs, -1)
            if layer < self.num_layers - 1:
                y = F.dropout(y, self.dropout, self.training)
        return y, tuple(torch.stack(each) for each in zip(*ends, strict=True))

    def _through_time(
        self, suffix: str, y: Tensor, state: State, live: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction: outputs (L, N, units) and the last state."""
        step = self.stepped(suffix, y)
        drives = self.product(f"ih{suffix}", y).unbind(0)
        is_reverse = suffix.endswith("_reverse")
        outs = []
        for t in reversed(range(len(drives))) if is_reverse else range(len(drives)):
            new = step(drives[t], state)
            if live is not None:
                new = tuple(map(torch.where, [live[t]] * len(new), new, state))
            state = new
            outs.append(state[0])
        return torch.stack(outs[::-1] if is_reverse else outs), state

    def _checked(self, y: Tensor, given: State | None, sizes: Tensor | None) -> State:
        """The initial states, in a shape that torch accepts; zeros if none are given."""
        if given is None:
            N = int(sizes[0]) if sizes is not None else y.shape[self._batch_dim]
            layers = self.num_layers * (2 if self.bidirectional else 1)
            units = [self.proj_size or self.hidden_size]
            if isinstance(self, nn.LSTM):
                units.append(self.hidden_size)
            given = tuple(y.new_zeros(layers, N, size) for size in units)
        self.check_forward_args(y, self._as_taken(given), sizes)
        return given

    def _as_taken(self, states: State) -> Any:
        """States as torch's module takes and gives them."""
        return states if isinstance(self, nn.LSTM) else states[0]

    @property
    def _batch_dim(self) -> int:
        return 0 if self.batch_first else 1

    def _step_dim(self, input: Tensor) -> int:
        return 1 if self.batch_first and input.dim() == 3 else 0

    def _fits(self, input: Tensor, hx: Any) -> bool:
        """False for what the plain module refuses, too."""
        if input.dim() not in (2, 3) or input.shape[self._step_dim(input)] == 0:
            return False
        state = _given(self, hx)
        return state is None or all(each.dim() == input.dim() for each in state)


class FeedbackRNN(_Elman, _Sequence, nn.RNN):
    """``nn.RNN`` with a feedback path."""

    plain = nn.RNN


class FeedbackLSTM(_LongShortTerm, _Sequence, nn.LSTM):
    """``nn.LSTM`` with a feedback path."""

    plain = nn.LSTM


class FeedbackGRU(_Gated, _Sequence, nn.GRU):
    """``nn.GRU`` with a feedback path."""

    plain = nn.GRU


def _given(module: nn.Module, hx: Any) -> State | None:
    """The states that a caller gave, as a tuple."""
    if hx is None or isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return None if hx is None else tuple(hx)
    return (hx,)


def _permuted(states: Tensor, order: Tensor | None) -> Tensor:
    """States of all examples in another order, (layers · directions, N, units)."""
    return states if order is None else states.index_select(1, order)
