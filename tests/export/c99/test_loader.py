"""causalrn_load refuses every file that is not whole, and survives all of them."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalrn.errors import BundleError
from causalrn.runtimes.native.library import NativeLibrary
from tests.builders import random_model
from tests.c_tools import c_bundle, needs_c_compiler

pytestmark = needs_c_compiler


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    """(load(bytes) -> message, the right file)"""
    bundle = c_bundle(random_model(blocks=1), tmp_path_factory.mktemp("loader"))
    library = NativeLibrary(bundle, bundle.manifest.native)
    content = (bundle.path / "weights.bin").read_bytes()

    def load(data: bytes) -> str:
        memory = np.frombuffer(data, np.uint8).copy()  # its end is an end: sanitizers and valgrind would notice
        code = library._library.native_load(library._handle, memory.ctypes.data, len(data))
        return str(library._library.native_message(code).decode())

    return load, content


def resealed(content: bytes, **fields: int) -> bytes:
    """The file with fields of its header changed, and the header's checksum right again."""
    names = ("byte_order", "version", "model", "size", "checksum")
    values = dict(zip(names, struct.unpack("<IIIII", content[4:24]), strict=True)) | fields
    header = (content[:4] + struct.pack("<IIIII", *values.values())).ljust(60, b"\0")
    return header + struct.pack("<I", zlib.crc32(header)) + content[64:]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content, "fine"),
        (lambda content: b"", "truncated"),
        (lambda content: content[:63], "truncated"),
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0", "longer"),
        (lambda content: b"GGUF" + content[4:], "not a weights file"),
        (lambda content: content[:4] + content[4:24][::-1] + content[24:], "not a weights file|byte order"),
        (lambda content: resealed(content, byte_order=0x04030201), "byte order"),
        (lambda content: resealed(content, version=2), "another version"),
        (lambda content: resealed(content, model=1), "another model"),
        (lambda content: resealed(content, size=0xFFFFFFC0), "another model"),
        (lambda content: resealed(content, checksum=0), "checksum"),
        (lambda content: content[:30] + b"\1" + content[31:], "damaged"),
        (lambda content: content[:-9] + b"\1" + content[-8:], "checksum"),
    ],
)
def test_file_that_is_not_whole_is_refused(loader, spoil, words):
    load, content = loader
    message = load(spoil(content))
    assert any(word in message for word in words.split("|")), message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**16), value=st.integers(1, 255), cut=st.integers(0, 2**16), seal=st.booleans())
def test_any_change_is_noticed(loader, place, value, cut, seal):
    load, content = loader
    changed = bytearray(content)
    changed[place % len(content)] ^= value
    data = bytes(changed[: len(content) - cut % 64])
    data = resealed(data) if seal and len(data) >= 64 and place % len(content) >= 64 else data
    assert load(data) != "fine"


def test_session_names_the_bundle_of_a_damaged_file(tmp_path):
    bundle = c_bundle(random_model(blocks=1), tmp_path)
    path = bundle.path / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match="bundle: the weights file is damaged: its checksum differs: export"):
        NativeLibrary(bundle, bundle.manifest.native)
