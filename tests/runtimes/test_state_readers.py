"""docs/state-files.md: its schema is true of state files, and its readers read what the toolkit reads."""

import dataclasses
import json
import re
import subprocess
from typing import Any

import jsonschema
import numpy as np
import pytest

import causalrn
from causalrn.runtimes import open_session
from causalrn.runtimes.state_file import load_state, save_state
from causalrn.runtimes.state_schema import header_schema
from tests.builders import ROOT
from tests.c_tools import needs
from tests.schema_files import check_schema_file
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "state-files.md"
SCHEMA = header_schema()
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "float64": "<f8", "int64": "<i8"}


@pytest.fixture(scope="module")
def states(runs, bundles, tmp_path_factory):
    """State files by what is in them."""
    folder, made = tmp_path_factory.mktemp("states"), {}

    def save(name, path, runtime=None, batch=2, length=5):
        made[name] = folder / f"{name}.safetensors"
        with open_session(path, runtime) as session:
            session.reset(batch)
            if length:
                session.prefill(np.random.default_rng(0).integers(0, 29, (batch, length)))
            session.save(made[name])

    for readout, bundle in bundles.items():
        save(readout, bundle)
    for name in ("pool8", "pool16"):
        causalrn.quantize(bundles["exact"], output=folder / name, max_kl=10.0, **{name: True})
        save(name, folder / name)
    save("fresh", bundles["exact"], length=0)
    save("one sequence", bundles["linear"], batch=1)
    save("tokens", runs["exact"], "parallel")
    made["tails"] = folder / "tails.safetensors"
    save_state(made["tails"], dataclasses.replace(load_state(made["linear"]), text_tails=(b"\xe2\x82", b"")))
    return made


NAMES = ("exact", "linear", "plain", "pool8", "pool16", "fresh", "one sequence", "tokens", "tails")


def header_of(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def expected_of(path):
    """Metadata, and tensors as the file names them, by the toolkit's own reader."""
    snapshot = load_state(path)
    tensors = {f"state.{name}": value for name, value in snapshot.tensors.items()}
    return header_of(path)["__metadata__"], tensors | ({} if snapshot.logits is None else {"logits": snapshot.logits})


def reader(language):
    """The block of the page in a language that defines a reader."""
    found = [block.text for block in blocks(PAGE.read_text(encoding="utf-8")) if block.language == language]
    return next(text for text in found if re.search("read_?state|find_tensor", text, re.IGNORECASE))


def test_published_schema_is_what_the_types_give():
    check_schema_file("state-header.schema.json", SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_headers_follow_the_schema(states, name):
    jsonschema.validate(header_of(states[name]), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"position": 5},
        {"position": "-1"},
        {"batch": "0"},
        {"checkpoint": "x"},
        {"arithmetic": "w2"},
        {"text_tails": "e2 8"},
        {"owner": None},
    ],
)
def test_schema_refuses_what_cannot_be(states, change):
    header = header_of(states["exact"])
    header["__metadata__"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(header, SCHEMA)


@pytest.mark.parametrize("name", ["pool", "state.pool", "state.0.pool"])
def test_schema_refuses_tensors_of_other_names(states, name):
    header = header_of(states["exact"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**header, name: header["state.00.pool"]}, SCHEMA)


def test_page_names_every_entry():
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(SCHEMA["$defs"]["StateMetadata"]["properties"])


@pytest.mark.parametrize("name", NAMES)
def test_reader_in_python_reads_what_the_toolkit_reads(states, name):
    names: dict[str, Any] = {}
    exec(reader("python"), names)
    metadata, tensors = names["read_state"](states[name])
    expected_metadata, expected = expected_of(states[name])
    assert metadata == expected_metadata
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype
        assert np.array_equal(tensors[key], value)


_MAIN_JS = """
import { readFileSync } from "node:fs";
const { metadata, tensors } = readState(readFileSync(process.argv[2]));
const hex = (data) => Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex");
for (const tensor of Object.values(tensors)) tensor.data = [tensor.data.constructor.name, hex(tensor.data)];
console.log(JSON.stringify({ metadata, tensors }));
"""
_ARRAYS = {"float32": "Float32Array", "float16": "Uint16Array", "int8": "Int8Array", "int64": "BigInt64Array"}


@needs("node", packages="nodejs")
def test_reader_in_javascript_reads_what_the_toolkit_reads(states, tmp_path):
    script = tmp_path / "read.mjs"
    script.write_text(reader("js") + _MAIN_JS)
    for path in states.values():
        result = subprocess.run(["node", script, path], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        read, (metadata, expected) = json.loads(result.stdout), expected_of(path)
        assert read["metadata"] == metadata
        assert read["tensors"].keys() == expected.keys()
        for name, value in expected.items():
            assert read["tensors"][name]["shape"] == list(value.shape)
            content = value.astype(DTYPES[value.dtype.name]).tobytes().hex()
            assert read["tensors"][name]["data"] == [_ARRAYS[value.dtype.name], content]


_MAIN_C = r"""
int main(int count, char **words) {
  static unsigned char file[1 << 20];
  FILE *input = fopen(words[1], "rb");
  if (!input || !fread(file, 1, sizeof file, input)) return 2;
  printf("%ld\n", find_position(file));
  for (int index = 2; index < count; index++) {
    size_t bytes = 0;
    const unsigned char *data = find_tensor(file, words[index], &bytes);
    if (!data) puts("none");
    else {
      for (size_t place = 0; place < bytes; place++) printf("%02x", data[place]);
      puts("");
    }
  }
  return 0;
}
"""


@needs("gcc", packages="gcc")
def test_reader_in_c_reads_what_the_toolkit_reads(states, tmp_path):
    source, program = tmp_path / "read.c", tmp_path / "read"
    source.write_text(reader("c") + _MAIN_C)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined,address"]
    subprocess.run(["gcc", *strict, source, "-o", program], check=True)
    for path in states.values():
        _, expected = expected_of(path)
        words = [*expected, "state.99.pool", "state.0", "position", "shape"]
        result = subprocess.run([program, path, *words], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        contents = [value.astype(DTYPES[value.dtype.name]).tobytes().hex() for value in expected.values()]
        assert result.stdout.split("\n")[:-1] == [str(load_state(path).position), *contents, *["none"] * 4]
