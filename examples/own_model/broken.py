"""Three models made wrong on purpose, each in its step alone: what a verification has to find."""

import torch
from torch import Tensor

from examples.own_model.lstm import LSTM
from examples.own_model.lstm import State as LSTMState
from examples.own_model.selective_state_space import Block, SelectiveStateSpace, State, make


class _DecayAfter(Block):
    def recurrent(self, u: Tensor, b: Tensor, c: Tensor, log_a: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        added = torch.einsum("bhd,bn->bhdn", u[:, 0], b[:, 0])
        ssm = log_a.exp()[:, 0, :, None, None] * (ssm + added)  # right: a * ssm + added
        return torch.einsum("bhdn,bn->bhd", ssm, c[:, 0])[:, None], ssm


class _ConvolutionOffByOne(Block):
    def forward(self, x: Tensor, state: State, parallel: bool) -> tuple[Tensor, State]:
        x, after = super().forward(x, state, parallel)
        return x, after if parallel else {**after, "conv": state["conv"]}  # window[..., :-1]; right: window[..., 1:]


class _PositionNotCarried(LSTM):
    """Counts positions in its state, from zero, and never goes on. Its step takes no position."""

    def step(self, tokens: Tensor, state: list[LSTMState]) -> tuple[Tensor, list[LSTMState]]:  # type: ignore[override]
        *blocks, counter = state
        logits, after = super().step(tokens, blocks, counter["position"])
        return logits, [*after, counter]  # right: position + 1

    def initial_state(self, batch: int) -> list[LSTMState]:
        position = torch.zeros(batch, dtype=torch.int64, device=self.embedding.weight.device)
        return [*super().initial_state(batch), {"position": position}]


def decay_after() -> SelectiveStateSpace:
    """A state space model that decays what the token adds, too."""
    return make(_DecayAfter)


def convolution_off_by_one() -> SelectiveStateSpace:
    """A state space model whose convolution state keeps the columns before the token, not those with it."""
    return make(_ConvolutionOffByOne)


def position_not_carried() -> LSTM:
    """An LSTM with learned positions whose step is at position 0 for ever."""
    torch.manual_seed(0)
    return _PositionNotCarried()
