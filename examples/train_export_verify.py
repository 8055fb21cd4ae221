"""From a task to a device, in Python: train, export, verify, quantize, generate. Takes about 20 s on two cores.

Cells start with `# %%`: run the file as a whole, or cell by cell in an editor that knows them. `example` is written to
the folder that the first argument names.
"""

# %% Train a tiny CausalRN to copy strings of three letters.

import sys
from pathlib import Path

import causalrn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example")
run = causalrn.train(
    task="copy",
    length=3,
    steps=150,
    batch=32,
    embedding=32,
    hidden=32,
    blocks=2,
    learning_rate=5e-3,
    output=folder / "run",
    overwrite=True,
)
assert run is not None  # None in all processes but the first; here is one
print(f"copied {run.accuracy:.0%} of the strings after {run.steps} steps")

# %% Export its recurrent cell. The result stands for its folder wherever a path is wanted.

bundle = causalrn.export(run, output=folder / "bundle", target="onnx")
state = bundle.bundle.manifest.state
print(f"a bundle whose state takes {state.bytes_per_token} bytes per token, up to {state.capacity} tokens")

# %% Verify every runtime against the float64 oracle: logits, states, splits, blocks, drift, the task, bit equality.

report = causalrn.verify(bundle, checkpoint=run, samples=100)
print(f"verify: {report.verdict}")

# %% Make it smaller, if it stays good enough, and verify that too.

small = causalrn.quantize(bundle, output=folder / "small", scheme="w8", pool8=True, samples=100)
print(f"{state.bytes_per_token} bytes per token become {small.bundle.manifest.state.bytes_per_token}")
print(f"verify: {causalrn.verify(small, checkpoint=run, samples=100).verdict}")

# %% Generate, token by token. A session is the same in every runtime.

with causalrn.open_session(small) as session:
    for prompt in ("abc", "xyz"):
        session.reset()
        print(prompt, "->", "".join(step.text for step in session.generate(prompt)))

# %% Stop in the middle, and go on elsewhere: the state is a value.

with causalrn.open_session(bundle) as session, causalrn.open_session(bundle) as other:
    session.prefill([[0, 3, 4, 5, 1]])  # BOS a b c SEP
    other.restore(session.snapshot())
    assert (session.step([3]) == other.step([3])).all()  # bit for bit
