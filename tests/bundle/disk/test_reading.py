"""Input files: what is refused before it is opened or believed, and in which words."""

import io
import os

import numpy as np
import pytest

from causalrn.bundle.disk.array_files import read_archive, read_array
from causalrn.bundle.disk.reading import LARGEST_JSON_BYTES, open_input, read_input, read_json_object, read_json_text
from causalrn.errors import InputError


def test_a_regular_file_is_read_through_links(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "copy")
    for name in ("file", "link", "copy"):
        assert read_input(tmp_path / name, "name another") == b"content"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: os.mkfifo(path), "a pipe, socket or device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device, not a file"),
        (lambda path: path.symlink_to(path.name), "a circle of symbolic links"),
        (lambda path: path.write_bytes(bytes(11)), "has 11 bytes, more than 10"),
    ],
)
def test_anything_else_is_named(tmp_path, make, words):
    make(tmp_path / "file")
    with pytest.raises(InputError) as caught:
        open_input(tmp_path / "file", "name another", most_bytes=10)
    assert str(caught.value) == f"{tmp_path / 'file'}: {words}: name another"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything: run the tests as another user")
def test_what_may_not_be_read_says_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(permission denied\): name another"):
        open_input(tmp_path / "file", "name another")


def test_json_is_limited_in_size_and_in_values(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"[" + b"{}," * (1 << 20) + b"{}]")  # 3 MB, which would be 100 MB of dictionaries
    with pytest.raises(InputError, match="more values than a file of this kind has"):
        read_json_object(path, "name another")
    os.truncate(path, LARGEST_JSON_BYTES + 1)
    with pytest.raises(InputError, match="has 33,554,433 bytes, more than 33,554,432"):
        read_json_object(path, "name another")
    path.write_bytes(b'{"a":\r\n1}')
    assert read_json_text(path, "name another") == '{"a":\n1}'
    assert read_json_object(path, "name another") == {"a": 1}


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_of_both_byte_orders_are_the_same(tmp_path, order):
    wanted = np.array([[1, 2, 300]], np.int64)
    np.save(tmp_path / "a.npy", wanted.astype(f"{order}i8"))
    np.savez_compressed(tmp_path / "a.npz", tokens=wanted.astype(f"{order}i8"), logits=np.ones(3, f"{order}f4"))
    found = read_archive(tmp_path / "a.npz", ("tokens", "logits", "others"), "record it again")
    assert found.keys() == {"tokens", "logits"}
    for array in (read_array(tmp_path / "a.npy", "write it again"), found["tokens"]):
        assert array.dtype.isnative
        assert array.tolist() == wanted.tolist()
    assert found["logits"].dtype == np.float32


def test_a_header_is_believed_as_far_as_there_are_bytes(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (3,)})
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(23))
    with pytest.raises(InputError, match=r"a\.npy: its header asks for float64 \[3\], more than there is"):
        read_array(tmp_path / "a.npy", "write it again")
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(24))
    assert read_array(tmp_path / "a.npy", "write it again").tolist() == [0, 0, 0]
