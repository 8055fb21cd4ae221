"""A selective state space model: Mamba-2 (arXiv 2405.21060, sections 6 and 7), with a prefill.

Per head, with d_t = softplus(dt_t + dt_bias) and the scalar decay a_t = exp(-d_t exp(log_rate)):

    S_t = a_t S_(t-1) + d_t u_t b_t^T   [D, N]
    y_t = S_t c_t + skip u_t            = sum over s <= t of (c_t . b_s) (a_(s+1) ... a_t) d_s u_s + skip u_t
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

V, E, H, D, N = 29, 32, 4, 16, 8  # vocabulary, width of the residual stream, heads, a head's rows and columns of state
C, K = H * D + 2 * N, 4  # channels and kernel of the convolution
State = dict[str, Tensor]  # of a block: conv [B, C, K - 1], the newest last; ssm [B, H, D, N]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gated_norm = nn.RMSNorm(E, eps=1e-5), nn.RMSNorm(H * D, eps=1e-5)
        self.in_proj, self.out_proj = nn.Linear(E, H * D + C + H, bias=False), nn.Linear(H * D, E, bias=False)
        self.conv, self.skip = nn.Conv1d(C, C, K, groups=C), nn.Parameter(torch.ones(H, 1))
        self.dt_bias, self.log_rate = nn.Parameter(torch.linspace(-4, 0, H)), nn.Parameter(torch.linspace(0, 2, H))

    def forward(self, x: Tensor, state: State, parallel: bool) -> tuple[Tensor, State]:
        gate, ubc, dt = torch.split(self.in_proj(self.norm(x)), [H * D, C, H], -1)
        window = torch.cat([state["conv"], ubc.mT], -1)  # [B, C, K - 1 + T]
        u, b, c = torch.split(silu(self.conv(window)).mT, [H * D, N, N], -1)
        u, d = u.reshape(*u.shape[:2], H, D), softplus(dt + self.dt_bias)  # [B, T, H, D], [B, T, H]
        form = self.parallel if parallel else self.recurrent
        y, ssm = form(d[..., None] * u, b, c, -d * self.log_rate.exp(), state["ssm"])
        y = self.gated_norm((y + self.skip * u).flatten(2) * silu(gate))  # [B, T, H * D]
        return x + self.out_proj(y), {"conv": window[..., 1 - K :], "ssm": ssm}

    def parallel(self, u: Tensor, b: Tensor, c: Tensor, log_a: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        ones, log_a = u.new_ones(u.shape[1], u.shape[1]), log_a.mT  # [T, T], [B, H, T]
        decay = (log_a[..., None] * ones.tril(-1)).cumsum(-2).exp().tril()  # [B, H, t, s]: a_(s+1) ... a_t
        decay_all = log_a.cumsum(-1).exp()  # [B, H, T]: of the state before the first token
        y = torch.einsum("btn,bsn,bhts,bshd->bthd", c, b, decay, u)
        y = y + torch.einsum("btn,bhdn,bht->bthd", c, ssm, decay_all)
        return y, decay_all[:, :, -1, None, None] * ssm + torch.einsum("bhs,bshd,bsn->bhdn", decay[:, :, -1], u, b)

    def recurrent(self, u: Tensor, b: Tensor, c: Tensor, log_a: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:  # T = 1
        ssm = log_a.exp()[:, 0, :, None, None] * ssm + torch.einsum("bhd,bn->bhdn", u[:, 0], b[:, 0])
        return torch.einsum("bhdn,bn->bhd", ssm, c[:, 0])[:, None], ssm


class SelectiveStateSpace(nn.Module):
    def __init__(self, block: type[Block]) -> None:
        super().__init__()
        self.vocabulary, self.embedding, self.head = V, nn.Embedding(V, E), nn.Linear(E, V, bias=False)
        self.blocks, self.norm = nn.ModuleList([block(), block()]), nn.RMSNorm(E, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:  # the parallel form, [B, T] -> [B, T, V]
        return self.prefill(tokens, self.initial_state(tokens.shape[0]))[0]

    def prefill(self, tokens: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:  # the same, onto any state
        return self._run(tokens, state, parallel=True)

    def step(self, tokens: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:  # one token, [B] -> [B, V]
        logits, state = self._run(tokens[:, None], state, parallel=False)
        return logits[:, 0], state

    def _run(self, tokens: Tensor, state: list[State], parallel: bool) -> tuple[Tensor, list[State]]:
        x, after = self.embedding(tokens), []
        for block, before in zip(self.blocks, state, strict=True):
            x, new = block(x, before, parallel)
            after.append(new)
        return self.head(self.norm(x)), after

    def initial_state(self, batch: int) -> list[State]:
        zeros = self.embedding.weight.new_zeros
        return [{"conv": zeros(batch, C, K - 1), "ssm": zeros(batch, H, D, N)} for _ in self.blocks]


def make(block: type[Block] = Block) -> SelectiveStateSpace:
    torch.manual_seed(0)
    return SelectiveStateSpace(block)
