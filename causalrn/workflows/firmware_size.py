"""What a C bundle takes on a device: memory as its code computes it, flash and stack as compiler and emulator find."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.disk.reading import read_json_object
from causalrn.bundle.json_values import json_text
from causalrn.compiling.programs import execute, find_tool, last_line
from causalrn.errors import BundleError, ConfigError
from causalrn.runtimes.bench.cost import macs_per_token
from causalrn.runtimes.native.native_session import NativeSession

SIZE_NAME = "size.json"
_MAKE = ["make", "-f", "cortex_m.mk"]
_TIMEOUT_S = 300.0
_UNMEASURED = "install gcc-arm-none-eabi, make and qemu-system-arm to have flash and stack measured"


@dataclass(frozen=True)
class DeviceSize:
    """What one sequence takes.

    Attributes:
        weights_bytes: packed, in flash or in memory.
        state_bytes: at the capacity; without one, for one position.
        work_bytes: working memory.
        macs_per_token: multiply-accumulates of the matrix products.
        exps_per_position: of every position that a token reads; 0 where it reads sums.
        flash_bytes, ram_bytes, stack_bytes: of the self-test as firmware, RAM with the stack that it used; None where
            that was not measured.
    """

    weights_bytes: int
    state_bytes: int
    work_bytes: int
    macs_per_token: int
    exps_per_position: int
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    stack_bytes: int | None = None

    def lines(self, profile: str) -> Iterator[str]:
        """The figures for people."""
        each = f", {self.exps_per_position:,} exps per position read" if self.exps_per_position else ""
        yield f"{self.macs_per_token:,} multiply-accumulates per token{each}"
        yield f"memory of one sequence: {self.state_bytes:,} bytes of state, {self.work_bytes:,} to work in"
        if self.flash_bytes is not None:
            stack = "" if self.stack_bytes is None else f" with {self.stack_bytes:,} of stack"
            yield f"Cortex-M7 firmware: {self.flash_bytes:,} bytes of flash, {self.ram_bytes:,} of RAM{stack}"
        if profile == "cortex-m" and self.stack_bytes is None:
            yield _UNMEASURED


def write_size(folder: Path, session: NativeSession) -> None:
    """Measure a C bundle whose files are in `folder` and write size.json beside them.

    Raises:
        ConfigError: firmware of it does not link: the model is too large for the memory of cortex_m.ld.
    """
    spec, config, profile = session.spec, session.card.block_config, session.native.profile
    whole, work = session.memory_bytes(1, session.capacity or 1)
    size = DeviceSize(
        weights_bytes=session.native.weights_bytes,
        state_bytes=whole - work,
        work_bytes=work,
        macs_per_token=macs_per_token(config),
        exps_per_position=config.blocks * config.hidden if spec.has_pool else 0,
        **(_measure_firmware(folder) if profile == "cortex-m" else {}),
    )
    data = {"report": "causalrn-size", "version": 1, "profile": profile, **asdict(size)}
    (folder / SIZE_NAME).write_text(json_text(data), encoding="utf-8")


def describe_size(bundle: Bundle) -> list[str]:
    """The figures of a bundle's size.json, for people; none where it has no such file.

    Raises:
        BundleError: the file holds other figures than this version's.
    """
    if SIZE_NAME not in bundle.manifest.files:
        return []
    path = bundle.file(SIZE_NAME)
    data = read_json_object(path, "export the bundle again", BundleError)
    try:
        figures = {name: data[name] for name in DeviceSize.__dataclass_fields__}
        return list(DeviceSize(**figures).lines(data["profile"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: malformed sizes ({error}): export the bundle again") from None


def _measure_firmware(folder: Path) -> dict[str, Any]:
    """Build the self-test for a Cortex-M7 and run it emulated, as far as the tools are here."""
    if find_tool("arm-none-eabi-gcc") is None or find_tool("make") is None:
        return {}
    with temporary_folder() as temporary:
        place = temporary / "firmware"
        shutil.copytree(folder, place)
        built = execute(_MAKE, _TIMEOUT_S, place, place)
        found = re.search(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s+\d+\s+\w+\s+\S+$", built.stdout, re.MULTILINE)
        if built.code != 0 or found is None:
            overflowed = re.search(r"region `(\w+)' overflowed by (\d+) bytes", built.stderr)
            why = f"{overflowed[1]} is {int(overflowed[2]):,} bytes too small" if overflowed else built.reason
            raise ConfigError(f"`profile` cortex-m: no firmware for this model: {why}; use a smaller one")
        text, data, bss = (int(number) for number in found.groups())
        sizes: dict[str, Any] = {"flash_bytes": text + data, "ram_bytes": data + bss}
        if find_tool("qemu-system-arm") is None:
            return sizes
        ran = execute([*_MAKE, "run"], _TIMEOUT_S, place)
        stack = re.search(r"passed: .* stack (\d+) bytes", ran.stdout)
        if ran.code != 0 or stack is None:
            raise ConfigError(f"`profile` cortex-m: the firmware fails its self-test: {last_line(ran.stdout)}")
    used = int(stack[1])
    return {**sizes, "ram_bytes": data + bss + used, "stack_bytes": used}
