"""Files that hold weights, told by their content: torch files, safetensors, and safetensors in shards.

Nothing in a file is executed: torch files are read with ``weights_only=True``, and of other classes only
``argparse.Namespace``, whose values are looked at by nobody, may occur in one. Every file is opened once. What is in a
file beside weights is sorted out in weight_containers.py.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from causalrn.bundle.disk.reading import LARGEST_JSON_BYTES, check_values, open_input
from causalrn.bundle.disk.tensor_files import read_shapes
from causalrn.bundle.json_values import parse_json_object
from causalrn.errors import CausalRNError, CheckpointError

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_LARGEST_BYTES = 16 << 30
_MOST_SHARDS = 10_000
_HEAD_BYTES = 512
_SAVE = "save it with torch.save(model.state_dict(), ...)"
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a git-LFS pointer, not the weights: get the file itself with git lfs pull"),
    (b"GGUF", "is a GGUF file, whose tensors have other names and are rounded: name the file that training saved"),
    (b"\x89HDF", f"is an HDF5 file (Keras?), not weights saved by PyTorch: {_SAVE}"),
    (b"\x93NUMPY", f"is one NumPy array, not a state dict: {_SAVE}"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (b"BZh", "is compressed with bzip2: unpack it"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (b"Rar!", "is a RAR archive: unpack it"),
    (b"<", "is a web page or XML, not weights (a download that asked for a login?): download the file again"),
)
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
)
"""What torch.load raises where bytes are not what they should be."""


@dataclass(frozen=True)
class WeightFile:
    """What a file, or a folder of shards, holds.

    Attributes:
        source: the path that was named, for errors.
        value: a mapping from names to tensors, or what else was saved.
        hashes: SHA-256 of every file that was read, by its name.
        words: what had to be done to read it, for people.
    """

    source: str
    value: Any
    hashes: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def read_weight_file(path: Path) -> WeightFile:
    """Read a file of weights, an index of shards, or a folder that holds one of them under its usual name.

    Raises:
        CheckpointError: it is missing, no regular file, damaged, or of a kind that holds no weights of PyTorch.
    """
    if path.is_dir():
        return read_weight_file(_file_in(path))
    with _opened(path) as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        if head.lstrip()[:1] == b"{":
            return _read_shards(path, file)
        value = _read_tensors(path, file, head)
        file.seek(0)
        return WeightFile(str(path), value, {path.name: hashlib.file_digest(file, "sha256").hexdigest()})


def _file_in(folder: Path) -> Path:
    found = next((folder / name for name in (*_INDICES, *_WHOLE) if (folder / name).is_file()), None)
    if found is not None:
        return found
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder}: a distributed checkpoint: gather it first, with torch.distributed.checkpoint.format_utils's "
            "dcp_to_torch_save"
        )
    raise CheckpointError(f"{folder}: a folder without {_INDICES[0]} or {_WHOLE[0]}: name the file of weights in it")


def _opened(path: Path) -> io.BufferedReader:
    """A regular file, open for reading."""
    file = open_input(path, "name the weights that the training script saved", CheckpointError, _LARGEST_BYTES)
    if file.peek(1):
        return file
    file.close()
    raise CheckpointError(f"{path}: is empty: copy it again")


def _read_tensors(path: Path, file: io.BufferedReader | io.BytesIO, head: bytes) -> Any:
    """What one file holds that is no index."""
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header_bytes >= 2:
        return _read_safetensors(path, file)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, file)
        return _read_torch(path, file)
    if head.startswith(_LEGACY_TORCH):
        return _read_torch(path, file)
    for start, words in _STARTS:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{path}: {words}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path}: is a tar archive: unpack it")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise CheckpointError(f"{path}: is a Python pickle that torch.save did not write, and is not opened: {_SAVE}")
    if head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head.lower() or path.suffix == ".onnx"):
        raise CheckpointError(f"{path}: is an ONNX model: name the weights that it was exported from")
    raise CheckpointError(
        f"{path}: is no file of torch.save or safetensors, or its beginning is damaged: copy it again"
    )


def _read_safetensors(path: Path, file: io.BufferedReader | io.BytesIO) -> dict[str, torch.Tensor]:
    try:
        read_shapes(file)
        return safetensors.torch.load(file.read())
    except (SafetensorError, CausalRNError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: corrupt safetensors file ({error}): copy it again") from None


def _check_archive(path: Path, file: io.BufferedReader | io.BytesIO) -> None:
    """Refuse zip files that torch.save did not write, and those that would grow when they are unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, UnicodeDecodeError):
        raise CheckpointError(f"{path}: corrupt or truncated torch file: copy it again") from None
    finally:
        file.seek(0)
    names = [entry.filename for entry in entries]
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path}: is an archive of NumPy arrays: {_SAVE}")
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a zip archive, not a torch file: unpack it and name the weights in it")
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path}: is a TorchScript archive, a program: {_SAVE}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path}: is a compressed archive, as torch.save writes none: {_SAVE}")


def _read_torch(path: Path, file: io.BufferedReader | io.BytesIO) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about formats that are refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f" ({kind[1]})" if kind else ""
        raise CheckpointError(f"{path}: holds more than weights{holds}, which is not opened: {_SAVE}") from None
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: corrupt or truncated torch file: copy it again") from error


def _read_shards(path: Path, file: io.BufferedReader | io.BytesIO) -> WeightFile:
    """The tensors that an index names, out of the files beside it, each read once."""
    text = file.read(LARGEST_JSON_BYTES + 1)
    try:
        if len(text) > LARGEST_JSON_BYTES:
            raise ValueError("too large")
        check_values(text)
        places = parse_json_object(text.decode(), str(path)).get("weight_map")
    except (CausalRNError, ValueError):
        raise CheckpointError(f"{path}: is text, not weights: name the file that torch.save wrote") from None
    if not isinstance(places, Mapping) or not all(isinstance(name, str) for name in places.values()) or not places:
        raise CheckpointError(f"{path}: is a JSON file, not an index of shards with a weight_map: name the weights")
    names = sorted(set(places.values()))
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside or len(names) > _MOST_SHARDS:
        raise CheckpointError(
            f"{path}: its weight_map names {(outside or names)[0]!r}, no file beside it: copy it again"
        )
    tensors: dict[str, Any] = {}
    hashes = {path.name: hashlib.sha256(text).hexdigest()}
    for name in names:
        shard, digest = _read_shard(path.parent / name, path.name)
        hashes[name] = digest
        wanted = [tensor for tensor, place in places.items() if place == name]
        missing = next((tensor for tensor in wanted if tensor not in shard), None)
        if missing is not None:
            raise CheckpointError(
                f"{path.parent / name}: lacks {missing}, which {path.name} says it has: copy it again"
            )
        tensors |= {tensor: shard[tensor] for tensor in wanted}
    return WeightFile(str(path), tensors, hashes, (f"joined {len(names)} shards",))


def _read_shard(path: Path, index: str) -> tuple[Mapping[str, Any], str]:
    """The tensors of one shard, and its SHA-256."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, but {index} needs it: copy all shards")
    with _opened(path) as file:
        content = file.read()
    value = _read_tensors(path, io.BytesIO(content), content[:_HEAD_BYTES])
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: holds no tensors by name, but {index} needs it: copy all shards")
    return value, hashlib.sha256(content).hexdigest()
