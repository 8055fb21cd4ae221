"""PyTorch peers of an engine: the same cell with a fixed pool or a constant state, eager and as a CUDA graph."""

from __future__ import annotations

import numpy as np
import torch

from causalrn.model.cell import RecurrentCell
from causalrn.model.sequence_model import SequenceModel


class EagerCell:
    """Steps of a cell whose state stays on the device; new rows are written into the pools there."""

    def __init__(self, model: SequenceModel, capacity: int, device: str, batch: int = 1) -> None:
        cell = RecurrentCell.from_model(model, pool="fixed", capacity=capacity)
        self.cell, self.batch = cell.to(device), batch
        self.tokens = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.state = [torch.zeros(t.sized(batch=batch), device=device) for t in self.cell.spec.tensors]
        self.logits = torch.zeros(batch, model.config.vocabulary, device=device)
        self.position = 0

    def reset(self) -> None:
        """Forget everything."""
        self.position = 0
        for tensor in self.state:
            tensor.zero_()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """One token per row [B] -> logits [B, V], back on the host as a session's are."""
        self.tokens.copy_(torch.from_numpy(tokens.reshape(-1, 1)))
        self.place.fill_(self.position)
        self.run()
        self.position += 1
        return self.logits.cpu().numpy()

    @torch.inference_mode()
    def run(self) -> None:
        """The step alone, from tensors to tensors: what a graph records."""
        logits, *outputs = self.cell(self.tokens, self.place.reshape(()), *self.state)
        for kept, output, tensor in zip(self.state, outputs, self.cell.spec.tensors, strict=True):
            if tensor.update == "append":
                kept.index_copy_(0, self.place, output)
            else:
                kept.copy_(output)
        self.logits.copy_(logits[:, 0])


class GraphedCell(EagerCell):
    """The same, recorded once and replayed."""

    def __init__(self, model: SequenceModel, capacity: int, device: str, batch: int = 1) -> None:
        super().__init__(model, capacity, device, batch)
        self._graph: torch.cuda.CUDAGraph | None = None
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):  # kernels are chosen before they are recorded
                super().run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            super().run()
        self._graph = graph
        self.reset()

    def run(self) -> None:
        """Replay the step."""
        if self._graph is None:
            super().run()
        else:
            self._graph.replay()
