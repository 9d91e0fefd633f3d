"""Attention with a feedback path: δ leaves each projection through B."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Held, Owner


class FeedbackMultiheadAttention(Owner, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with a feedback path.

    Its layers are ``in_proj``, whose W has the rows of q, k and v, and ``out_proj``; or ``q_proj``,
    ``k_proj``, ``v_proj`` and ``out_proj`` if keys or values have another size. The softmax has no
    weights. The product q kᵀ and the weighted sum of v are products of activations: δ passes them
    by their exact derivatives. With gradients disabled, torch's own forward pass runs, including
    its fast path.
    """

    plain = nn.MultiheadAttention

    @classmethod
    def held(cls, module: nn.Module) -> dict[str, Held]:
        assert isinstance(module, nn.MultiheadAttention)
        bias = None if module.in_proj_bias is None else "in_proj_bias"
        if module._qkv_same_embed_dim:
            return {"in_proj": Held("in_proj_weight", bias)}
        width = module.embed_dim
        return {
            f"{each}_proj": Held(f"{each}_proj_weight", bias, slice(i * width, (i + 1) * width))
            for i, each in enumerate("qkv")
        }

    @classmethod
    def steps_first(cls, module: nn.Module) -> bool:
        assert isinstance(module, nn.MultiheadAttention)
        return not module.batch_first

    @classmethod
    def refuses_direct(cls, module: nn.Module) -> tuple[list[str], str] | None:
        if not cls.steps_first(module):
            return None
        return [""], (
            "gets positions before examples, so that the output layer's δ of one example would be "
            "taken for one position's, which batch_first=True prevents"
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in ``nn.MultiheadAttention``."""
        if not torch.is_grad_enabled() or not self._fits(
            query, key, value, key_padding_mask, attn_mask, is_causal
        ):
            return super().forward(  # without gradients; or to raise torch's own error
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
        is_causal = is_causal and key_padding_mask is None and not need_weights
        is_batched = query.dim() == 3
        q, k, v = (self._heads(each, is_batched) for each in self._projected(query, key, value))
        mask = _added(None if is_causal else attn_mask, q.dtype)
        mask = None if mask is None else mask.reshape(-1, *_heads_of(mask, self.num_heads))
        padding = _added(key_padding_mask, q.dtype)
        if padding is not None:
            padding = padding.reshape(-1, 1, 1, padding.shape[-1])  # (N or 1, heads, L, S)
        k, v, mask, padding = self._with_more_keys(k, v, mask, padding)
        if padding is not None:
            mask = padding if mask is None else mask + padding
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            out, shares = _attend(q, k, v, mask, dropout)
            shares = shares.mean(1) if average_attn_weights else shares
        else:
            out, shares = _attend_fused(q, k, v, mask, dropout, is_causal), None
        out = self.out_proj(self._joined(out, is_batched))
        return out, shares if shares is None or is_batched else shares[0]

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """q, k and v in the shapes of the inputs, by one product for inputs that are the same."""
        if not self._qkv_same_embed_dim:
            given = {"q_proj": query, "k_proj": key, "v_proj": value}
            return tuple(self.product(name, y) for name, y in given.items())
        width = self.embed_dim
        if query is key and key is value:
            return self.product("in_proj", query).chunk(3, -1)
        q = self.product("in_proj", query, slice(0, width))
        if key is value:
            return q, *self.product("in_proj", key, slice(width, 3 * width)).chunk(2, -1)
        k = self.product("in_proj", key, slice(width, 2 * width))
        return q, k, self.product("in_proj", value, slice(2 * width, 3 * width))

    def _heads(self, y: Tensor, is_batched: bool) -> Tensor:
        """Inputs in the module's layout as (N, heads, positions, features of a head)."""
        y = y.unflatten(-1, (self.num_heads, -1))
        if not is_batched:
            return y.transpose(0, 1)[None]
        return y.transpose(1, 2) if self.batch_first else y.permute(1, 2, 0, 3)

    def _joined(self, out: Tensor, is_batched: bool) -> Tensor:
        """The inverse of :meth:`_heads`."""
        if not is_batched:
            return out[0].transpose(0, 1).flatten(1)
        return (out.transpose(1, 2) if self.batch_first else out.permute(2, 0, 1, 3)).flatten(2)

    def _with_more_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Keys and values with the learned one and the zeros that the module may add. All queries
        see them."""
        added = []
        if self.bias_k is not None and self.bias_v is not None:
            shape = (self.num_heads, 1, self.head_dim)
            added.append((self.bias_k.view(shape), self.bias_v.view(shape)))
        if self.add_zero_attn:
            zeros = k.new_zeros(self.num_heads, 1, self.head_dim)
            added.append((zeros, zeros))
        for for_k, for_v in added:
            k = torch.cat([k, for_k.to(k.dtype).expand(len(k), -1, -1, -1)], 2)
            v = torch.cat([v, for_v.to(v.dtype).expand(len(v), -1, -1, -1)], 2)
        if added:
            mask, padding = (m if m is None else F.pad(m, (0, len(added))) for m in (mask, padding))
        return k, v, mask, padding

    def _fits(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> bool:
        """False for what ``nn.MultiheadAttention`` refuses, too."""
        dims, widths = query.dim(), (self.embed_dim, self.kdim, self.vdim)
        if dims not in (2, 3) or query.is_nested or (is_causal and attn_mask is None):
            return False
        if any(y.dim() != dims for y in (key, value)) or key.shape[:-1] != value.shape[:-1]:
            return False
        if tuple(y.shape[-1] for y in (query, key, value)) != widths:
            return False
        batch = 0 if self.batch_first else 1
        if dims == 3 and query.shape[batch] != key.shape[batch]:
            return False
        N = query.shape[batch] if dims == 3 else 1
        L, S = (y.shape[1 - batch if dims == 3 else 0] for y in (query, key))
        padding = (S,) if dims == 2 else (N, S)
        return _is_mask(key_padding_mask, padding) and _is_mask(
            attn_mask, (L, S), (N * self.num_heads, L, S)
        )


def _is_mask(mask: Tensor | None, *shapes: tuple[int, ...]) -> bool:
    if mask is None:
        return True
    return mask.shape in shapes and (mask.dtype is torch.bool or mask.is_floating_point())


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to the scores: −∞ where a mask of bool is True."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


def _heads_of(mask: Tensor, heads: int) -> tuple[int, ...]:
    """(1 or heads, L, S): a mask of two dimensions is that of all heads."""
    return (1 if mask.dim() == 2 else heads), *mask.shape[-2:]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ / √d + mask) v, and the softmax."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    shares = (scores if mask is None else scores + mask).softmax(-1)
    shares = F.dropout(shares, dropout)
    return shares @ v, shares


def _attend_fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, is_causal: bool
) -> Tensor:
    """softmax(q kᵀ / √d + mask) v in one kernel of PyTorch.

    On the CPU its backward pass takes seven times as long in bfloat16 as in float32 (torch 2.14,
    AMX, 64 positions).
    """
    if q.device.type != "cpu" or q.dtype is not torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
    mask = mask if mask is None else mask.float()
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), mask, dropout, is_causal
        )
    return out.to(q.dtype)
