"""A gated delta net (arXiv 2412.06464, equation 10), without its short convolutions.

Per head, with a decay a_t and a strength of writing b_t in (0, 1), and keys and queries of length one:

    S_t = a_t S_(t-1) (I - b_t k_t k_t^T) + b_t v_t k_t^T   [D, D]      o_t = S_t q_t

The parallel form is the WY form over the whole sequence. Token t adds u_t k_t^T with u_t = b_t (v_t - a_t S_(t-1) k_t),
so S_t = sum over s <= t of decay_ts u_s k_s^T with decay_ts = a_(s+1) ... a_t. One triangular system gives every u:

    u_t + b_t sum over s < t of decay_ts (k_t . k_s) u_s = b_t v_t
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, sigmoid, silu

V, E, H, D = 29, 32, 2, 16  # vocabulary, width of the residual stream, heads, width of a head
State = dict[str, Tensor]  # of a block: memory [B, H, D, D], values by keys


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head_norm = nn.RMSNorm(E, eps=1e-5), nn.RMSNorm(D, eps=1e-5)
        self.in_proj, self.out_proj = nn.Linear(E, 4 * H * D, bias=False), nn.Linear(H * D, E, bias=False)
        self.rates = nn.Linear(E, 2 * H)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        r = self.norm(x)
        q, k, v, gate = silu(self.in_proj(r)).reshape(*x.shape[:2], 4, H, D).transpose(1, 3).unbind(2)  # [B, H, T, D]
        a, b = sigmoid(self.rates(r) + 2).mT.chunk(2, 1)  # [B, H, T] each, about 0.9
        parts = normalize(q, dim=-1), normalize(k, dim=-1), v, a, b
        o, after = (self.parallel(*parts), None) if state is None else self.recurrent(*parts, state)
        o = self.head_norm(o.transpose(1, 2)) * gate.transpose(1, 2)  # [B, T, H, D]
        return x + self.out_proj(o.flatten(2)), after

    def parallel(self, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Every position at once, from an empty state."""
        ones = torch.ones_like(q @ k.mT)  # [B, H, T, T]
        decay = torch.where(ones.tril(-1) > 0, a[..., None], ones).cumprod(-2).tril()
        system = (b[..., None] * (k @ k.mT) * decay).tril(-1)  # the ones on its diagonal are the solver's
        u: Tensor = torch.linalg.solve_triangular(system, b[..., None] * v, upper=False, unitriangular=True)
        return (q @ k.mT * decay) @ u

    def recurrent(self, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: State) -> tuple[Tensor, State]:
        decayed = a[..., None] * state["memory"]  # T = 1
        memory = decayed + b[..., None] * (v.mT - decayed @ k.mT) @ k  # [B, H, D, 1] @ [B, H, 1, D]
        return q @ memory.mT, {"memory": memory}


class GatedDeltaRule(nn.Module):
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


def make() -> GatedDeltaRule:
    torch.manual_seed(0)
    return GatedDeltaRule()
