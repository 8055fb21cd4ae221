"""Gated linear attention (arXiv 2312.06635, section 4).

Per head, with a gate a_t in (0, 1) for every key column and b_t = a_1 ... a_t:

    S_t = diag(a_t) S_(t-1) + k_t v_t^T   [D, D]
    o_t = S_t^T q_t                       = sum over s <= t of ((q_t b_t) . (k_s / b_s)) v_s

The parallel form is the textbook's: b_t shrinks and k / b grows with every token, until they leave the range of
float32, after about 340 tokens here: NaN. The step has no such limit. In training one computes in chunks.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import sigmoid, silu

V, E, H, D = 29, 32, 2, 16  # vocabulary, width of the residual stream, heads, width of a head
State = dict[str, Tensor]  # of a block: memory [B, H, D, D], keys by values


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head_norm = nn.RMSNorm(E, eps=1e-5), nn.RMSNorm(D, eps=1e-5)
        self.in_proj, self.out_proj = nn.Linear(E, 4 * H * D, bias=False), nn.Linear(H * D, E, bias=False)
        self.gate = nn.Sequential(nn.Linear(E, 8, bias=False), nn.Linear(8, H * D, bias=False))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        r = self.norm(x)
        q, k, v, gate = self.in_proj(r).reshape(*x.shape[:2], 4, H, D).unbind(2)  # [B, T, H, D] each
        a = sigmoid(self.gate(r) - 4).reshape(q.shape) ** (1 / 16)  # about 0.78: a memory of some tokens
        q = q * D**-0.5
        o, after = (self.parallel(q, k, v, a), None) if state is None else self.recurrent(q, k, v, a, state)
        o = (self.head_norm(o) * silu(gate)).flatten(2)  # [B, T, H * D]
        return x + self.out_proj(o), after

    def parallel(self, q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        """Every position at once, from an empty state."""
        b = a.cumprod(1)
        scores = torch.einsum("bthd,bshd->bhts", q * b, k / b).tril()
        return torch.einsum("bhts,bshd->bthd", scores, v)

    def recurrent(self, q: Tensor, k: Tensor, v: Tensor, a: Tensor, state: State) -> tuple[Tensor, State]:
        """One position, T = 1."""
        q, k, v, a = q[:, 0], k[:, 0], v[:, 0], a[:, 0]  # [B, H, D]
        memory = a[..., None] * state["memory"] + k[..., None] * v[:, :, None]
        return torch.einsum("bhk,bhkv->bhv", q, memory)[:, None], {"memory": memory}


class GatedLinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.embedding, self.head = V, nn.Embedding(V, E), nn.Linear(E, V, bias=False)
        self.blocks, self.norm = nn.ModuleList([Block(), Block()]), nn.RMSNorm(E, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        """The parallel form, [B, T] -> [B, T, V]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def step(self, tokens: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """The recurrent form, one token: [B], state -> [B, V], state."""
        x, after = self.embedding(tokens[:, None]), []
        for block, before in zip(self.blocks, state, strict=True):
            x, new = block(x, before)
            after.append(new)
        return self.head(self.norm(x))[:, 0], after

    def initial_state(self, batch: int) -> list[State]:
        return [{"memory": self.embedding.weight.new_zeros(batch, H, D, D)} for _ in self.blocks]


def make() -> GatedLinearAttention:
    torch.manual_seed(0)
    return GatedLinearAttention()
