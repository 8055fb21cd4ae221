"""An LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of arXiv 1409.2329) with learned positions.

The parallel form is `torch.nn.LSTM` over the whole sequence, the step the same module over one token. The step is told
its position, an int64 tensor without axes: positions are learned, for CAPACITY tokens.
"""

import torch
from torch import Tensor, nn

V, E, CAPACITY = 29, 32, 1024  # vocabulary, width of the residual stream and of the LSTM, positions
State = dict[str, Tensor]  # of a block: hidden [B, E], cell [B, E]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out_proj = nn.LayerNorm(E), nn.Linear(E, E)
        self.lstm = nn.LSTM(E, E, batch_first=True)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before = None if state is None else (state["hidden"][None], state["cell"][None])  # [1, B, E]
        o, (hidden, cell) = self.lstm(self.norm(x), before)
        return x + self.out_proj(o), {"hidden": hidden[0], "cell": cell[0]}


class LSTM(nn.Module):
    vocabulary, capacity = V, CAPACITY

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(V, E), nn.Embedding(CAPACITY, E)
        self.blocks, self.norm = nn.ModuleList([Block(), Block()]), nn.LayerNorm(E)
        self.head = nn.Linear(E, V, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The parallel form, [B, T] -> [B, T, V]."""
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def step(self, tokens: Tensor, state: list[State], position: Tensor) -> tuple[Tensor, list[State]]:
        """The recurrent form, one token: [B], state, position [] -> [B, V], state."""
        x, after = (self.embedding(tokens) + self.positions(position))[:, None], []  # [B, 1, E]
        for block, before in zip(self.blocks, state, strict=True):
            x, new = block(x, before)
            after.append(new)
        return self.head(self.norm(x))[:, 0], after

    def initial_state(self, batch: int) -> list[State]:
        zeros = self.embedding.weight.new_zeros
        return [{"hidden": zeros(batch, E), "cell": zeros(batch, E)} for _ in self.blocks]


def make() -> LSTM:
    torch.manual_seed(0)
    return LSTM()
