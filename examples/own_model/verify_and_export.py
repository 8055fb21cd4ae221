"""Four recurrent models of one's own: verified, exported, stepped in onnxruntime; and three faults, found.

    python examples/own_model/verify_and_export.py OUTPUT

Writes OUTPUT/NAME for each model, a bundle that needs neither this file nor PyTorch, and OUTPUT/NAME.html, its report.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import causalrn

sys.path.insert(0, str(Path(__file__).parents[2]))  # this example lies in a package of the repository
from examples.own_model import broken, gated_delta_rule, gated_linear_attention, lstm, selective_state_space

MODELS = {
    "gated_linear_attention": gated_linear_attention.make,
    "selective_state_space": selective_state_space.make,
    "gated_delta_rule": gated_delta_rule.make,
    "lstm": lstm.make,
}
FAULTS = (broken.decay_after, broken.convolution_off_by_one, broken.position_not_carried)


def step_in_onnxruntime(bundle: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, V] of one sequence, int64 [T], by the graph alone: zeros at position 0 are a fresh state."""
    graph = onnxruntime.InferenceSession(bundle / "step.onnx", providers=["CPUExecutionProvider"])
    past = [value for value in graph.get_inputs() if value.name.startswith("past.")]
    sizes = {"B": 1, "t": 0}
    state = [np.zeros([sizes.get(dim, dim) for dim in value.shape], np.float32) for value in past]
    rows = []
    for position, token in enumerate(tokens):
        feed = {"tokens": np.array([[token]]), "position": np.array(position)}
        feed |= {value.name: tensor for value, tensor in zip(past, state, strict=True)}
        logits, *state = graph.run(None, feed)  # "present." comes out in the order of "past."
        rows.append(logits[0, 0])
    return np.stack(rows)


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    tokens = np.random.default_rng(0).integers(0, 29, 40)
    for name, make in MODELS.items():
        report = causalrn.verify_recurrent(make(), steps=64, drift_steps=64)
        report.save_html(output / f"{name}.html")
        causalrn.export_recurrent(make(), output=output / name)
        with torch.no_grad():
            expected = make()(torch.from_numpy(tokens)[None])[0].numpy()
        error = np.abs(step_in_onnxruntime(output / name, tokens) - expected).max()
        print(f"{name}: {report.verdict}, onnxruntime within {error / np.abs(expected).max():.0e}")
    for make in FAULTS:
        report = causalrn.verify_recurrent(make(), vocabulary=29, steps=64, levels=["contract", "logits", "state"])
        print(f"{make.__name__}: {report.verdict}, {report.report.attributions[0].verdict}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
