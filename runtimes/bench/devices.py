"""A few devices that people name, with constants from data sheets: good for a first guess, not for a promise.

Reading is the peak rate of the memory interface times what one core of that kind usually draws from it, or of the
processor's own memory where weights lie there; exps and products follow from the clock, the width of the vectors and
the instructions of the C cell: about 11 vector instructions for one exp of each lane, one load and one multiply-add for
a product of each lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from causalrn.errors import InputError
from causalrn.runtimes.bench.machine import Machine

_EXP_INSTRUCTIONS, _INT8_INSTRUCTIONS = 11, 3


@dataclass(frozen=True)
class _Core:
    """One core: clock in GHz, floats per vector, vector instructions per cycle, what it reads in GB/s, flash apart."""

    clock_ghz: float
    lanes: int
    per_cycle: float
    read_gb_s: float
    flash_gb_s: float | None = None

    def machine(self, name: str, what: str, memory_bytes: int, flash_bytes: int | None = None) -> Machine:
        """Its constants."""
        lanes_per_s = self.clock_ghz * 1e9 * self.lanes * self.per_cycle
        return Machine(
            name=name,
            source=f"data sheet, one core: {what}",
            bytes_per_s=((1.0, self.read_gb_s * 1e9),),
            exps_per_s=lanes_per_s / _EXP_INSTRUCTIONS,
            products_per_s=lanes_per_s / 2,
            int8_products_per_s=lanes_per_s / _INT8_INSTRUCTIONS,
            memory_bytes=memory_bytes,
            flash_bytes=flash_bytes,
            flash_bytes_per_s=None if self.flash_gb_s is None else self.flash_gb_s * 1e9,
        )


_DEVICES = (
    _Core(1.5, 4, 1, 4.0).machine(
        "raspberry-pi-4", "Cortex-A72 at 1.5 GHz, LPDDR4-3200 on 32 bits (12.8 GB/s at most)", 4 << 30
    ),
    _Core(2.4, 4, 2, 9.0).machine(
        "raspberry-pi-5", "Cortex-A76 at 2.4 GHz, LPDDR4X-4267 on 32 bits (17 GB/s at most)", 8 << 30
    ),
    _Core(1.7, 4, 2, 15.0).machine(
        "jetson-orin-nano-cpu",
        "Cortex-A78AE at 1.7 GHz, LPDDR5 on 128 bits (102 GB/s for all)",
        8 << 30,
    ),
    _Core(3.2, 4, 4, 50.0).machine("apple-m1", "Firestorm at 3.2 GHz, LPDDR4X-4266 on 128 bits (68 GB/s)", 8 << 30),
    _Core(3.0, 8, 2, 15.0).machine("x86-avx2", "3 GHz with AVX2, two channels of DDR4-3200 (51 GB/s)", 16 << 30),
    _Core(0.48, 1, 0.7, 1.5, 0.3).machine(
        "stm32h743", "Cortex-M7 at 480 MHz, weights in flash (0.3 GB/s), state in memory (1.5 GB/s)", 1 << 20, 2 << 20
    ),
)
DEVICES = {machine.name: machine for machine in _DEVICES}
"""By name."""


def find_device(name: str) -> Machine:
    """A named device, or the machine that a file holds.

    Raises:
        InputError: neither; or the file is malformed.
    """
    if name in DEVICES:
        return DEVICES[name]
    path = Path(name)
    if not path.exists():
        raise InputError(f"{name}: neither a file nor a device: choose one of {', '.join(DEVICES)}, or measure one")
    return Machine.load(path)
