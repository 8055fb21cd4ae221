"""Check bundles against their golden vectors, on whatever processor runs this: JSON on standard output, a line each.

    qemu-x86_64 -cpu Haswell python benchmarks/emulated_check.py BUNDLE ...

other_processors.py and tests/runtimes/test_other_processors.py run it under emulators. Needs neither torch nor onnx.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import to_json
from causalrn.compiling.processor import processor_family
from causalrn.workflows.verify import verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions

LOOSE = {"kl_divergence": 5.0, "argmax_changes": 1.0, "accuracy_drop": 1.0, "scale": 1.0, "offset": 1.0}
"""What random weights lose is not the point; what a processor adds to it is, and the row "recorded" judges that."""


def check(folder: str) -> dict[str, Any]:
    """How far a bundle's logits are from the oracle's, and from those that were recorded when it was written."""
    report = verify_with_golden(Path(folder), VerifyOptions(level=("logits",), limits=LOOSE)).report
    against_oracle, recorded = report.results
    return {
        "bundle": folder,
        "processor_family": processor_family(),
        "passed": report.passed,
        "error": against_oracle.error,
        "recorded_difference": recorded.error,
        "distribution": to_json(against_oracle.figures.distribution),
        "notes": list(report.notes),
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(check(name)), flush=True)
