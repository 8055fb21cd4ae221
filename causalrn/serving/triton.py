"""The Python model of the Triton Inference Server: sequences by correlation id, many of them in one call.

The server's sequence batcher says with every request which sequence it belongs to (CORRID), and whether it begins or
ends (START, END). A sequence's state is a slot; a request's answer is bit-equal to that of a session of its own.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalrn.bundle.triton_folder import BUNDLE_FOLDER, CORRELATION, END, LOGITS, NEXT_TOKEN, READY, START, TOKENS
from causalrn.errors import CausalRNError, InputError
from causalrn.runtimes.opening import open_folder
from causalrn.runtimes.session import Session
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.slots import Slots
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.serving.slot_calls import call_together

Answer = FloatArray | CausalRNError


@dataclass(frozen=True)
class SequenceRequest:
    """Tokens [T] of a sequence; the first ones, or the last."""

    correlation: int
    tokens: IntArray
    is_start: bool
    is_end: bool


class SequenceSlots:
    """Slots by correlation id.

    Args:
        session: that runs them.
        most: sequences that are kept. The server lets no more of them be open, but does not tell of those that it has
            given up: where another one begins, that which has waited longest goes.
    """

    def __init__(self, session: Session, most: int) -> None:
        self._slots: Slots = session.slots()
        self._most = most
        self._by_correlation: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        """How many sequences are open."""
        return len(self._by_correlation)

    def close(self) -> None:
        """Forget all sequences."""
        self._slots.close()

    def answer(self, requests: Sequence[SequenceRequest]) -> list[Answer]:
        """Logits [T, V] of each request, or why there are none; sequences advance together, each on its own."""
        answers: dict[int, Answer] = {}
        left = list(enumerate(requests))
        while left:
            turn: dict[int, tuple[int, SequenceRequest]] = {}
            for number, request in left:  # in order, where one sequence comes twice
                turn.setdefault(request.correlation, (number, request))
            taken = {number for number, _ in turn.values()}
            left = [entry for entry in left if entry[0] not in taken]
            answers |= self._answer_each_once(dict(turn.values()))
        return [answers[number] for number in range(len(requests))]

    def _answer_each_once(self, requests: Mapping[int, SequenceRequest]) -> dict[int, Answer]:
        slots: dict[int, int] = {}  # by request
        answers: dict[int, Answer] = {}
        for number, request in requests.items():
            try:
                slots[number] = self._slot(request)
            except CausalRNError as error:
                answers[number] = error
        calls = {slot: requests[number].tokens for number, slot in slots.items()}
        given, failed = call_together(self._slots.prefill, calls)
        for number, slot in slots.items():
            answers[number] = failed[slot] if slot in failed else given[slot]
            if requests[number].is_end:
                self._release(requests[number].correlation)
        return answers

    def _slot(self, request: SequenceRequest) -> int:
        name = request.correlation
        if request.is_start:
            if name in self._by_correlation:
                self._release(name)
            elif len(self._by_correlation) >= self._most:
                self._release(next(iter(self._by_correlation)))
            self._by_correlation[name] = self._slots.admit()
        if name not in self._by_correlation:
            raise InputError(f"sequence {name} is not open here: begin it again, with sequence_start")
        self._by_correlation.move_to_end(name)
        return self._by_correlation[name]

    def _release(self, correlation: int) -> None:
        self._slots.release(self._by_correlation.pop(correlation))


class TritonPythonModel:
    """What the server's Python backend calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle that lies beside the model.

        Args:
            args: the server's: where the model is, and its configuration as JSON.
        """
        config = json.loads(args["model_config"])
        given = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        options = SessionOptions(given.get("provider", "cpu"), int(given.get("threads", "1")))
        version, _, folder = BUNDLE_FOLDER.partition("/")
        path = Path(args["model_repository"]) / args.get("model_version", version) / folder
        self.session = open_folder(path, given.get("runtime"), options)
        most = config["sequence_batching"]["oldest"]["max_candidate_sequences"]
        self.sequences = SequenceSlots(self.session, int(most))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests of different sequences: one response each."""
        import triton_python_backend_utils as server

        def read(request: Any, name: str) -> Any:
            return server.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)

        asked = {
            number: SequenceRequest(
                int(read(request, CORRELATION)[0]),
                read(request, TOKENS),
                bool(read(request, START)[0]),
                bool(read(request, END)[0]),
            )
            for number, request in enumerate(requests)
            if read(request, READY)[0]
        }
        answers = dict(zip(asked, self.sequences.answer(list(asked.values())), strict=True))
        return [_response(server, answers.get(number)) for number in range(len(requests))]

    def finalize(self) -> None:
        """Forget all sequences and close the bundle."""
        self.sequences.close()
        self.session.close()


def _response(server: Any, answer: Answer | None) -> Any:
    if answer is None:
        return server.InferenceResponse(output_tensors=[])
    if isinstance(answer, CausalRNError):
        return server.InferenceResponse(output_tensors=[], error=server.TritonError(" ".join(str(answer).split())))
    tensors = {
        LOGITS: np.ascontiguousarray(answer[None], np.float32),  # [1, T, V]
        NEXT_TOKEN: answer[-1:].argmax(-1).astype(np.int64)[None],  # [1, 1]
    }
    return server.InferenceResponse(output_tensors=[server.Tensor(name, value) for name, value in tensors.items()])
