"""golden.h: golden vectors for the self-test of a C bundle, one sequence, small enough for a microcontroller."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from causalrn.export.c99.header import c_array

FloatArray = npt.NDArray[np.floating]

_MOST_STEPS, _MOST_LOGITS = 24, 4096


def golden_header_text(tokens: npt.NDArray[np.int64], logits: FloatArray, bounds: FloatArray) -> str:
    """The file's text.

    Args:
        tokens: int64 [T].
        logits: [T, V] that are right.
        bounds: [T] largest |error| of a logit that is allowed.
    """
    steps = max(2, min(_MOST_STEPS, _MOST_LOGITS // logits.shape[1], len(tokens)))
    return "\n".join(
        [
            "/* Golden vectors for selftest.c: tokens, the logits that are right, and per step how far off is allowed.",
            " * Written by causalrn-export. */",
            "#include <stdint.h>",
            "",
            f"#define GOLDEN_STEPS {steps}",
            *c_array("golden_tokens", tokens[:steps].astype(np.int32), "int32_t"),
            *c_array("golden_logits", logits[:steps].astype(np.float32), "float"),
            *c_array("golden_bounds", bounds[:steps].astype(np.float32), "float"),
            "",
        ]
    )
