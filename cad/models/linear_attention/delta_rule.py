"""The gated delta rule, a chunk at a time (Yang, Kautz and Hatamizadeh, arXiv:2412.06464, section 3).

A state S (keys x values) is an associative memory that every step writes to::

    S_t = a_t S_(t-1) + k_t u_t^T    with    u_t = b_t (v_t - a_t S_(t-1)^T k_t)
    o_t = S_t^T q_t

The decay a_t forgets everything a little; the delta u_t replaces what is stored under k_t alone.  With
keys of length one and b_t between 0 and 1 no step makes the state larger than what is written to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cad.models.linear_attention.config import CHUNK


def delta_rule(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, strength: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, heads, T, width) and the state (B, heads, width, width) after the last step.

    ``queries``, ``keys`` and ``values`` are (B, heads, T, width), ``log_decay`` (at most 0) and ``strength``
    (B, heads, T).  Decays enter as quotients of later by earlier ones, which are at most one: nothing
    overflows in float32, and over 3,000 steps outputs stay within 1e-4 of exact ones.
    """
    T = keys.shape[2]
    if T == 1:
        return _one_step(queries, keys, values, log_decay, strength, state)
    chunks = -(-T // CHUNK)

    def cut(x: Tensor) -> Tensor:
        # Padding with zeros: such a step neither decays nor writes.
        padding = (0, 0, 0, chunks * CHUNK - T) if x.ndim == 4 else (0, chunks * CHUNK - T)
        return F.pad(x, padding).view(*x.shape[:2], chunks, CHUNK, *x.shape[3:])

    q, k, v, total, b = map(cut, (queries, keys, values, log_decay, strength))
    total = total.cumsum(-1)  # log of the decay since the chunk began, (B, heads, chunks, CHUNK)
    seen = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=k.device).tril()
    quotient = (total[..., :, None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    # All u of a chunk solve (1 + A) u = b (v - decay S^T k), A strictly lower triangular: their part
    # without the state, and what the state is multiplied by.
    b = b[..., None]
    decay = total.exp()[..., None]
    A = (b * quotient * (k @ k.mT)).tril(-1)
    solved = torch.linalg.solve_triangular(
        A, torch.cat([b * v, b * decay * k], dim=-1), upper=False, unitriangular=True
    )
    written, read = solved.split(v.shape[-1], dim=-1)
    scores = quotient * (q @ k.mT)
    q = decay * q
    last = total[..., -1:]
    k = (last - total).exp()[..., None] * k
    outputs = []
    for c in range(chunks):
        u = written[:, :, c] - read[:, :, c] @ state
        outputs.append(q[:, :, c] @ state + scores[:, :, c] @ u)
        state = last[:, :, c, :, None].exp() * state + k[:, :, c].mT @ u
    return torch.cat(outputs, dim=2)[:, :, :T], state


def _one_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, strength: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`delta_rule` of one step, as it is defined."""
    state = log_decay[..., None].exp() * state
    u = strength[..., None] * (v - k @ state)
    state = state + k.mT @ u
    return q @ state, state
