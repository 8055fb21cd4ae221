"""What a session may compute in, where its runtime offers a choice. Needs no torch and no runtime."""

from __future__ import annotations

FLOAT32 = "float32"
BFLOAT16 = "bf16"
INT8_ACTIVATIONS = "int8-activations"

PRECISIONS = {
    FLOAT32: "as the graph says, float32 where it says float32",
    BFLOAT16: "products, activations and sums in bfloat16 wherever the processor has it",
    INT8_ACTIVATIONS: "activations rounded to 8 bits before weights of 8 or 4 bits",
}
"""By name, in words; all but the first are judged by a budget, not by rounding."""
