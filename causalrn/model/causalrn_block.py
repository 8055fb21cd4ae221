"""A block of a CausalRN in parallel form.

The paper's symbols (arXiv 2406.16168, section 3) and the names here:

    x      residual stream [B, T, E]       r   LN0(x)
    a, b   W1 r + b1, W2 r    [B, T, H]    o   readout: mean over j <= i of f(a_i, b_j)
    x <- x + W3 LN0(o) + b3
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from causalrn.model.config import CausalRNConfig
from causalrn.model.normalization import without_autocast
from causalrn.model.operators.normalize import normalize, normalize_sums
from causalrn.model.readouts import parallel as parallel_readout

Readout = Callable[[Tensor, Tensor, CausalRNConfig], Tensor]


class CausalRNBlock(nn.Module):
    """One block: read the past through pairs, write to the residual stream. [B, T, E] -> [B, T, E]."""

    def __init__(self, config: CausalRNConfig) -> None:
        super().__init__()
        self.config = config
        self.fc_1 = nn.Linear(config.embedding, config.hidden, bias=config.bias_1)
        self.fc_2 = nn.Linear(config.embedding, config.hidden, bias=config.bias_2)
        self.fc_3 = nn.Linear(config.hidden, config.embedding, bias=config.bias_3)

    def forward(self, x: Tensor, readout: Readout = parallel_readout.readout) -> Tensor:
        """Apply the block with the given form of the readout."""
        r = normalize(x, self.config.norm, self.config.norm_eps)
        a, b = self.fc_1(r), self.fc_2(r)
        with without_autocast(x):  # sums of exponentials need float32
            o = readout(a.to(x.dtype), b.to(x.dtype), self.config)
            if self.config.post_norm:
                o = self._post_norm(o)
        out: Tensor = x + self.fc_3(o)
        return out

    def _post_norm(self, o: Tensor) -> Tensor:
        """Exp(LN0) reaches exp(sqrt(H - 1)): the square of its sums overflows float32 for H > 1,500."""
        config = self.config
        is_sum = config.state_kind == "pool" or config.norm_eps > 0
        positive_sum = config.activation == "exp" and is_sum and not config.scales_heads
        return (normalize_sums if positive_sum else normalize)(o, config.norm, config.norm_eps)
