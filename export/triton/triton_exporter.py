"""A model folder for the Triton Inference Server: its configuration, a Python model, and an ONNX bundle beside it.

The folder goes into a model repository as it is; its name is the model's. `manifest.json` and golden vectors lie in it,
so that it is a bundle, too, for `verify` and the other commands; the server does not look at them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.triton_folder import BUNDLE_FOLDER, CORRELATION, END, LOGITS, NEXT_TOKEN, READY, START, TOKENS
from causalrn.export.onnx_exporter import export_onnx
from causalrn.training.checkpoint import Checkpoint

_MODEL = '''\
"""One token or many of a sequence in, logits out; the sequence's state stays here. Needs: pip install causalrn."""

import os
import sys

# some builds of the server's Python look at no PYTHONPATH
sys.path += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]

from causalrn.serving.triton import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''
_CONFIG = """\
# Written by causalrn-export; the model's name is its folder's.
backend: "python"
max_batch_size: {sequences}

input [
  {{ name: "{tokens}", data_type: TYPE_INT64, dims: [ -1 ], allow_ragged_batch: true }}
]
output [
  {{ name: "{logits}", data_type: TYPE_FP32, dims: [ -1, {vocabulary} ] }},
  {{ name: "{next_token}", data_type: TYPE_INT64, dims: [ 1 ] }}
]

sequence_batching {{
  max_sequence_idle_microseconds: {idle_us}
  oldest {{
    max_candidate_sequences: {sequences}
    max_queue_delay_microseconds: 0
  }}
  control_input [
    {{
      name: "{start}"
      control [ {{ kind: CONTROL_SEQUENCE_START, fp32_false_true: [ 0, 1 ] }} ]
    }},
    {{
      name: "{end}"
      control [ {{ kind: CONTROL_SEQUENCE_END, fp32_false_true: [ 0, 1 ] }} ]
    }},
    {{
      name: "{ready}"
      control [ {{ kind: CONTROL_SEQUENCE_READY, fp32_false_true: [ 0, 1 ] }} ]
    }},
    {{
      name: "{correlation}"
      control [ {{ kind: CONTROL_SEQUENCE_CORRID, data_type: TYPE_UINT64 }} ]
    }}
  ]
}}

# states are in one process: more instances are more processes, each with sequences of its own
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
parameters [
  {{ key: "provider", value: {{ string_value: "cpu" }} }},
  {{ key: "threads", value: {{ string_value: "1" }} }}
]
"""
_IDLE_US = 600_000_000
"""Ten minutes: a person who reads may come back."""


@dataclass(frozen=True)
class TritonOptions:
    """What is asked of a model folder.

    Attributes:
        capacity: most positions; None takes the model's.
        max_sequences: that the server keeps at once.
    """

    capacity: int | None = None
    max_sequences: int = 64


def export_triton(checkpoint: Checkpoint, folder: Path, *, options: TritonOptions) -> Manifest:
    """Write the model folder of a checkpoint into an existing folder; gives its manifest.

    Raises:
        CheckpointError, ConfigError: as :func:`causalrn.export.onnx_exporter.export_onnx`.
    """
    inside = folder / BUNDLE_FOLDER
    inside.mkdir(parents=True)
    manifest = export_onnx(checkpoint, inside, pool="growing", capacity=options.capacity, opset=23)
    seal_bundle(inside, manifest)
    (inside.parent / "model.py").write_text(_MODEL, encoding="utf-8")
    text = config_text(checkpoint.card.config.vocabulary, options.max_sequences)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return replace(manifest, target="triton", graphs={}, opset=None, streams=())


def config_text(vocabulary: int, sequences: int) -> str:
    """The server's configuration of the model, in protobuf's text form."""
    return _CONFIG.format(
        sequences=sequences,
        vocabulary=vocabulary,
        tokens=TOKENS,
        logits=LOGITS,
        next_token=NEXT_TOKEN,
        start=START,
        end=END,
        ready=READY,
        correlation=CORRELATION,
        idle_us=_IDLE_US,
    )
