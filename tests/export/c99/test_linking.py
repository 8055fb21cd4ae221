"""Several models in one program: by prefixes, and with one prefix; static and shared; CMake, make and pkg-config."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import InputError
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.workflows.export import export
from tests.builders import random_model
from tests.c_tools import c_bundle, needs, needs_gcc

pytestmark = needs_gcc
TOKENS = [3, 7, 28, 4, 4, 19]
PLAIN = ("-O0", "-DCAUSALRN_NO_VECTORS")  # compiled in a moment
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
# what a program does with one model: logits of its tokens, by the functions and by the handles, to standard output
RUN = """
#include "{prefix}_api.h"
#include <stdio.h>
#include <string.h>
{inline}
int {name}(const char *weights_file, const int32_t *tokens, int count);
int {name}(const char *weights_file, const int32_t *tokens, int count)
{{
    static uint64_t file[{upper}_FILE_BYTES / 8 + 1], memory[({upper}_SESSION_BYTES(1, 40) + 7) / 8];
    static float logits[{upper}_VOCABULARY], others[{upper}_VOCABULARY];
    {prefix}_weights weights;
    {prefix}_session session;
    const crn_api *api = {prefix}_api();
    crn_model *model;
    crn_session *slots;
    int32_t slot;
    FILE *stream = fopen(weights_file, "rb");
    const size_t size = stream != NULL ? fread(file, 1, sizeof file, stream) : 0;
    int code = stream == NULL && size > 0 ? 98 : {load};
    if (stream != NULL)
        fclose(stream);
    code = code != 0 ? code : {prefix}_open(&session, &weights, memory, sizeof memory, 1, 40);
    code = code != 0 ? code : {open};
    code = code != 0 ? code : api->open(model, 0, &slots);
    code = code != 0 ? code : api->admit(slots, &slot);
    for (int i = 0; i < count && code == 0; i++) {{
        code = {prefix}_step(&session, &tokens[i], logits);
        code = code != 0 ? code : api->step(slots, slot, tokens[i], others);
        if (memcmp(logits, others, sizeof logits) != 0)
            return 99;
        fwrite(logits, sizeof logits, 1, stdout);
    }}
    api->close_session(slots);
    api->close(model);
    return code;
}}
"""
MAIN = """
#include <stdint.h>
{declarations}
static const int32_t tokens[] = {{{tokens}}};
int main(int count, char **words)
{{
    (void)count;
{calls}
    return 0;
}}
"""
KINDS = {
    "float32": (1, {}),
    "w8": (1, {"scheme": "w8"}),
    "other": (2, {}),
    "inline": (3, {"weights": "inline"}),
    "linear": (4, {}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Bundles by kind and prefix: the same model has the same seed."""
    made = {}

    def model(kind, prefix):
        if (kind, prefix) not in made:
            seed, options = KINDS[kind]
            readout = "linear" if kind == "linear" else "exact"
            folder = tmp_path_factory.mktemp("linked")
            made[kind, prefix] = c_bundle(random_model(seed=seed, readout=readout), folder, prefix=prefix, **options)
        return made[kind, prefix]

    return model


def expected(bundle) -> np.ndarray:
    with NativeSession(bundle, flags=plain(bundle)) as session:
        return np.stack([session.step([token])[0] for token in TOKENS])


def written(folder: Path, bundles: dict[str, Bundle]) -> tuple[list[Path], list[str]]:
    """A program's sources, one for every model, and its arguments; models by the name of their function."""
    for name, bundle in bundles.items():
        prefix = bundle.manifest.native.prefix
        inline = bundle.manifest.native.weights == "inline"
        words = {
            "prefix": prefix,
            "upper": prefix.upper(),
            "name": name,
            "inline": f'#include "{prefix}_weights.h"' if inline else "",
            "load": f"{prefix}_use(&weights, {prefix}_payload)" if inline else f"{prefix}_load(&weights, file, size)",
            "open": "api->open_inline(&model)" if inline else "api->open_file(weights_file, &model)",
        }
        (folder / f"{name}.c").write_text(RUN.format(**words))
    declarations = "\n".join(f"int {name}(const char *, const int32_t *, int);" for name in bundles)
    calls = "\n".join(
        f"    if ({name}(words[{number + 1}], tokens, {len(TOKENS)}) != 0) return {number + 1};"
        for number, name in enumerate(bundles)
    )
    main = MAIN.format(declarations=declarations, tokens=", ".join(map(str, TOKENS)), calls=calls)
    (folder / "main.c").write_text(main)
    return [folder / "main.c"], [str(bundle.path / "weights.bin") for bundle in bundles.values()]


def gcc(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["gcc", *map(str, arguments)], capture_output=True, text=True, check=False)


def built(*arguments: object) -> None:
    result = gcc(*arguments)
    assert result.returncode == 0, result.stderr


def plain(bundle) -> list[str]:
    prefix = bundle.manifest.native.prefix
    return [flag.replace("CAUSALRN", prefix.upper()) for flag in PLAIN]


def library(bundle, folder: Path, shared: bool) -> Path:
    """libPREFIX.a or .so, in a folder of its own: several may have one prefix."""
    folder.mkdir()
    prefix = bundle.manifest.native.prefix
    sources = [bundle.path / f"{prefix}.c", bundle.path / f"{prefix}_api.c"]
    if shared:
        flags = ("-shared", "-fPIC", f"-D{prefix.upper()}_PLAIN_API", *plain(bundle))  # functions are seen as well
        built(*STRICT, *flags, *sources, "-lm", "-o", folder / f"lib{prefix}.so")
        return folder / f"lib{prefix}.so"
    objects = [folder / f"{source.stem}.o" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        built(*STRICT, *plain(bundle), "-c", source, "-o", target)
    subprocess.run(["ar", "rcs", folder / f"lib{prefix}.a", *objects], check=True)
    return folder / f"lib{prefix}.a"


def check_program(folder: Path, bundles: dict[str, Bundle], *, shared: bool) -> None:
    """Build it with the libraries in both orders: every model gives what it gives alone."""
    sources, arguments = written(folder, bundles)
    objects = []
    for name, bundle in bundles.items():
        built(*STRICT, "-I", bundle.path, "-c", folder / f"{name}.c", "-o", folder / f"{name}.o")
        objects.append(folder / f"{name}.o")
    libraries = [library(bundle, folder / f"of_{name}", shared) for name, bundle in bundles.items()]
    wanted = np.concatenate([expected(bundle) for bundle in bundles.values()])
    for number, order in enumerate((libraries, libraries[::-1])):
        program = folder / f"program{number}"
        # a shared library is found where it lies: two of one name would be one for the loader
        built(*sources, *objects, *order, "-lm", "-o", program)
        result = subprocess.run([program, *arguments], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        assert np.array_equal(np.frombuffer(result.stdout, np.float32).reshape(wanted.shape), wanted)


@pytest.mark.cases(1)
@pytest.mark.parametrize("shared", [False, True], ids=["static", "shared"])
def test_five_models_in_one_program_give_what_each_gives_alone(models, tmp_path, shared):
    check_program(tmp_path, {f"run_{kind}": models(kind, f"m_{kind}") for kind in KINDS}, shared=shared)


@pytest.mark.cases(2)
@pytest.mark.parametrize("shared", [False, True], ids=["static", "shared"])
@pytest.mark.parametrize("kinds", [("float32", "w8"), ("float32", "other"), ("inline", "linear")], ids=" and ".join)
def test_two_models_of_one_prefix_are_never_mistaken_for_each_other(models, tmp_path, kinds, shared):
    check_program(tmp_path, {f"run_{kind}": models(kind, "causalrn") for kind in kinds}, shared=shared)


def test_two_models_of_one_prefix_in_one_file_are_refused_in_a_sentence(models, tmp_path):
    first, second = models("float32", "causalrn"), models("w8", "causalrn")
    text = f'#include "{first.path}/causalrn.h"\n#include "{second.path}/causalrn.h"\nint main(void) {{ return 0; }}\n'
    (tmp_path / "both.c").write_text(text)
    result = gcc("-std=c99", tmp_path / "both.c", "-o", tmp_path / "x")
    assert result.returncode != 0
    assert result.stderr.count("error:") == 1
    assert "--prefix" in result.stderr
    (tmp_path / "both.c").write_text(text.replace(str(second.path), str(first.path)))
    built("-std=c99", tmp_path / "both.c", "-o", tmp_path / "x")


def test_source_and_header_of_two_models_do_not_link(models, tmp_path):
    one, other = models("float32", "causalrn"), models("other", "causalrn")
    written(tmp_path, {"run": one})
    built("-I", one.path, "-c", tmp_path / "run.c", "-o", tmp_path / "run.o")
    result = gcc(tmp_path / "main.c", tmp_path / "run.o", library(other, tmp_path / "of", shared=False), "-lm")
    assert result.returncode != 0
    assert "undefined reference" in result.stderr


def test_inline_weights_of_another_model_are_refused_in_a_sentence(models, tmp_path):
    inline = models("inline", "causalrn")
    for name in ("causalrn_weights.h", "causalrn.h"):
        shutil.copy(inline.path / name, tmp_path)
    header = (tmp_path / "causalrn.h").read_text()
    number = next(line.split()[2] for line in header.splitlines() if "#define CAUSALRN_MODEL " in line)
    (tmp_path / "causalrn.h").write_text(header.replace(number, "0x12345678u"))
    (tmp_path / "x.c").write_text('#include "causalrn_weights.h"\nint main(void) { return 0; }\n')
    result = gcc("-std=c99", tmp_path / "x.c")
    assert result.returncode != 0
    assert "different models" in result.stderr


@needs("g++", packages="g++")
def test_cpp_compiles_the_headers_and_gives_one_sentence_for_the_sources(models, tmp_path):
    bundle = models("float32", "copier")
    (tmp_path / "x.cpp").write_text('#include "copier_api.h"\n#include "copier_threads.h"\nint main() { return 0; }\n')
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", bundle.path, "-c"]
    subprocess.run([*command, tmp_path / "x.cpp", "-o", tmp_path / "x.o"], check=True)
    for source in ("copier.c", "copier_api.c"):
        result = subprocess.run(
            [*command, "-x", "c++", bundle.path / source, "-o", tmp_path / "x.o"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode != 0
        assert result.stderr.count("error:") == 1
        assert "compile it as C" in result.stderr


def test_every_name_begins_with_the_prefix(models, tmp_path):
    bundle = models("float32", "copier")
    built("-std=c99", "-O1", "-c", bundle.path / "copier.c", "-o", tmp_path / "copier.o")
    names = subprocess.run(
        ["nm", "-g", "--defined-only", tmp_path / "copier.o"], capture_output=True, text=True, check=True
    )
    symbols = [line.split()[-1] for line in names.stdout.splitlines()]
    assert len(symbols) == 11
    assert all(symbol.startswith("copier_") for symbol in symbols)
    for path in bundle.path.iterdir():
        if path.suffix in (".c", ".h", ".txt") or path.name == "Makefile":
            named = re.sub(r"causalrn-(export|state)|\\\"causalrn\\\\", "", path.read_text())
            assert "causalrn" not in named


@pytest.mark.parametrize("prefix", ["", "Copier", "1st", "a-b", "crn", "x" * 41, "copier_"])
def test_prefixes_that_cannot_be(tmp_path, prefix):
    with pytest.raises(InputError, match="prefix"):
        export(tmp_path, output=tmp_path / "out", target="c", prefix=prefix)


RELEASE = "-DCMAKE_BUILD_TYPE=Release"
CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(program C)
{models}
add_executable(program main.c {sources})
target_link_libraries(program PRIVATE {libraries})
"""


@pytest.mark.cases(1)
@needs("cmake", packages="cmake")
@pytest.mark.parametrize("way", ["subdirectories", "packages"])
def test_cmake_takes_two_models_in_one_project(models, tmp_path, way):
    bundles = {"run_one": models("float32", "one"), "run_two": models("linear", "two")}
    _, arguments = written(tmp_path, bundles)
    bundles = {bundle.manifest.native.prefix: bundle for bundle in bundles.values()}
    flags = "-DCMAKE_C_FLAGS_RELEASE=-O0 -DONE_NO_VECTORS -DTWO_NO_VECTORS"
    lines = [f"add_subdirectory({bundle.path} {name})" for name, bundle in bundles.items()]
    if way == "packages":
        for name, bundle in bundles.items():
            build = tmp_path / f"build_{name}"
            options = (f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'installed'}", f"-D{name.upper()}_PROGRAMS=OFF")
            run("cmake", "-S", bundle.path, "-B", build, *options, flags, RELEASE)
            run("cmake", "--build", build, "--target", "install")
        lines = [f"find_package({name} 1 REQUIRED)" for name in ("one", "two")]
        assert (tmp_path / "installed" / "share" / "one" / "weights.bin").is_file()
    names = {"models": "\n".join(lines), "sources": "run_one.c run_two.c", "libraries": "one::one two::two"}
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(**names))
    run("cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}", flags, RELEASE)
    run("cmake", "--build", tmp_path / "b", "--target", "program")
    result = subprocess.run([tmp_path / "b" / "program", *arguments], capture_output=True, check=True)
    wanted = np.concatenate([expected(bundle) for bundle in bundles.values()])
    assert np.array_equal(np.frombuffer(result.stdout, np.float32).reshape(wanted.shape), wanted)


def run(*command: object) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs("make", "pkg-config", packages="make, pkgconf")
def test_make_install_gives_what_pkg_config_finds(models, tmp_path):
    bundle = models("float32", "copier")
    source = shutil.copytree(bundle.path, tmp_path / "source")
    run("make", "-C", source, "install", f"PREFIX={tmp_path / 'installed'}", "CFLAGS=-O0 -DCOPIER_NO_VECTORS")
    folder = tmp_path / "installed"
    flags = run("env", f"PKG_CONFIG_PATH={folder}/lib/pkgconfig", "pkg-config", "--cflags", "--libs", "copier").split()
    _, _ = written(tmp_path, {"run": bundle})
    weights = run(
        "env", f"PKG_CONFIG_PATH={folder}/lib/pkgconfig", "pkg-config", "--variable=weights", "copier"
    ).strip()
    built(tmp_path / "main.c", tmp_path / "run.c", "-static", *flags, "-o", tmp_path / "program")
    result = subprocess.run([tmp_path / "program", weights], capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(result.stdout, np.float32).reshape(-1, 29), expected(bundle))


@needs("make", packages="make")
def test_what_make_built_does_not_stand_in_the_way_of_a_second_export(runs, tmp_path):
    for _ in range(2):
        bundle = export(runs["exact"], output=tmp_path / "source", target="c", prefix="copier").bundle
        assert not (bundle.path / "build").exists()
        run("make", "-C", bundle.path, "CFLAGS=-O0 -DCOPIER_NO_VECTORS")
        assert (bundle.path / "build" / "libcopier.so").is_file()
    (bundle.path / "build" / "CACHEDIR.TAG").unlink()
    with pytest.raises(InputError, match="build"):
        export(runs["exact"], output=tmp_path / "source", target="c")
