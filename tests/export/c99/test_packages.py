"""Folders for the build systems of microcontrollers: laid out as each expects, compiled as far as there are tools.

Arduino's own builder compiles the sketch, for a Cortex-M7 that QEMU runs. CMake runs what is for ESP-IDF and Zephyr
with functions of the same names that do what those two document. Metadata is held against each world's rules.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.native_spec import PACKAGES
from causalrn.errors import InputError
from tests.c_tools import needs, needs_c_compiler

pytestmark = needs_c_compiler
HERE = Path(__file__).parent
SOURCE = {f"src/copier{end}" for end in (".c", ".h", "_weights.h", "_golden.h", "_demo.c", "_demo.h")}
FILES = {
    "arduino": {"library.properties", "examples/copier/copier.ino"},
    "platformio": {"library.json", "examples/copier/copier.ino"},
    "esp-idf": {
        *("CMakeLists.txt", "idf_component.yml", "examples/esp_idf/CMakeLists.txt"),
        *("examples/esp_idf/main/CMakeLists.txt", "examples/esp_idf/main/main.c"),
    },
    "zephyr": {
        *("zephyr/module.yml", "zephyr/CMakeLists.txt", "zephyr/Kconfig"),
        *(f"samples/copier/{name}" for name in ("CMakeLists.txt", "prj.conf", "sample.yaml", "src/main.c")),
    },
}
QEMU = ["qemu-system-arm", "-M", "mps2-an500", "-display", "none", "-monitor", "none", "-serial", "none"]
QEMU += ["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,chardev=out", "-kernel"]


@pytest.fixture(scope="module")
def bundle(runs, tmp_path_factory) -> Bundle:
    output = tmp_path_factory.mktemp("packages") / "out"
    causalrn.export(runs["exact"], output=output, target="c", prefix="copier", package=PACKAGES)
    return Bundle.open(output)


@pytest.fixture(scope="module")
def package(bundle: Bundle) -> Path:
    return bundle.path / "packages" / "copier"


@pytest.fixture(scope="module")
def answers(bundle: Bundle) -> str:
    """What the programs print of the lines "fox", "Fox" and "a"."""

    def answer(prompt: str) -> str:
        with causalrn.open_session(bundle) as session:
            return "".join(step.text for step in session.generate(prompt))

    fox, a = answer("fox"), answer("a")
    return f"{fox}\na token is outside the vocabulary\n{a}\n"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run(*command: object, text: str | None = None, cwd: Path | None = None) -> str:
    result = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, check=False, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check_output(output: str, answers: str) -> None:
    first, _, rest = output.partition("\n")
    found = re.fullmatch(r"golden vectors: largest error (\d+\.\d\d) % of what is allowed ?", first)
    assert found, output
    assert 0 < float(found[1]) <= 100
    assert rest == answers


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_folder_is_for_all_worlds_and_in_the_manifest(bundle, package):
    assert files_in(package) == {"README.md", *SOURCE}.union(*FILES.values())
    assert {f"packages/copier/{name}" for name in files_in(package)} < {*bundle.manifest.files}
    assert bundle.manifest.native.packages == PACKAGES
    assert (bundle.manifest.native.weights, bundle.manifest.native.rows) == ("inline", 1)
    readme = (package / "README.md").read_text()
    assert re.findall("^## (.*)", readme, re.MULTILINE) == ["Arduino", "ESP-IDF", "PlatformIO", "Zephyr"]
    for name in ("copier.h", "copier_weights.h"):
        assert (package / "src" / name).read_bytes() == (bundle.path / name).read_bytes()
    assert (package / "src" / "copier.c").read_text().endswith("#endif\n" + (bundle.path / "copier.c").read_text())
    for path in package.rglob("*"):
        if path.is_file():
            named = re.sub(r"causalrn-(export|state)|\\\"causalrn\\\\", "", path.read_text())
            assert "causalrn" not in named, path


def test_export_again_replaces_the_folder_and_keeps_what_is_not_its_own(call, runs, tmp_path):
    command = ("export", runs["linear"], "-o", tmp_path / "c", "--target", "c", "--prefix", "copier", "--package")
    assert call(*command, "arduino")[0] == 0
    package = tmp_path / "c" / "packages" / "copier"
    assert files_in(package) == {"README.md", *SOURCE, *FILES["arduino"]}
    (package / "src" / "mine.c").write_text("int mine;\n")
    code, _, err = call(*command, "zephyr")
    assert code == 2
    assert "holds other files (packages, changed)" in err
    assert err.count("\n") == 1
    assert (package / "library.properties").is_file()
    (package / "src" / "mine.c").unlink()
    code, out, _ = call(*command, "zephyr", "--scheme", "w8", "--profile", "cortex-m")
    assert code == 0
    assert files_in(package) == {"README.md", *SOURCE, *FILES["zephyr"]}
    _, out, _ = call("inspect", tmp_path / "c")
    assert "packages for zephyr" in out
    (package / "src" / "copier.h").write_text("#define WRONG\n")
    code, _, err = call("inspect", tmp_path / "c")
    assert code == 2
    assert "packages/copier/src/copier.h" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--package", "abacus"], "abacus"),
        (["--package", "zephyr", "--weights", "file"], "--weights file and --package contradict each other"),
        (["--package", "zephyr", "--target", "onnx"], "--package belongs to --target c"),
    ],
)
def test_packages_that_cannot_be_are_one_line(call, runs, tmp_path, options, words):
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "out", "--target", "c", *options)
    assert code == 2
    assert words in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", [5, "abacus", ["zephyr", 5]])
def test_packages_of_the_wrong_type_are_errors(runs, tmp_path, package):
    with pytest.raises(InputError, match="package"):
        causalrn.export(runs["exact"], output=tmp_path / "out", target="c", package=package)


# --- Arduino ----------------------------------------------------------------------------------------------------------


def test_library_properties_follow_the_specification(package):
    lines = (package / "library.properties").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert len(fields) == len(lines)
    wanted = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert wanted <= fields.keys()
    assert all(fields.values())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", fields["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert fields["category"] == "Data Processing"  # one of the specification's
    assert (package / "src" / fields["includes"]).is_file()
    assert not (package / "utility").exists()  # of the older layout, without src/


def arduino_command(package: Path, output: Path, sketch: Path) -> list[object]:
    (output / "tools").mkdir(parents=True)
    (output / "build").mkdir()
    folders = ["-hardware", HERE / "board", "-tools", output / "tools", "-libraries", package.parent]
    options = ["-fqbn", "crn:arm:m7", "-build-path", output / "build", "-ide-version", "10819", "-warnings", "all"]
    return ["arduino-builder", "-compile", *folders, *options, sketch]


ARDUINO = ("arduino-builder", "arduino-ctags", "arm-none-eabi-g++")
needs_arduino = needs(*ARDUINO, packages="arduino-builder, gcc-arm-none-eabi, libnewlib-arm-none-eabi")


@needs_arduino
@needs("qemu-system-arm", packages="qemu-system-arm")
def test_the_sketch_is_built_by_arduino_and_answers(package, answers, tmp_path):
    run(*arduino_command(package, tmp_path, package / "examples" / "copier" / "copier.ino"))
    built = tmp_path / "build" / "libraries" / "copier"
    assert {path.name for path in built.rglob("*.o")} == {"copier.c.o", "copier_demo.c.o"}
    check_output(run(*QEMU, tmp_path / "build" / "copier.ino.elf"), answers)


@needs_arduino
def test_a_library_in_the_wrong_place_is_not_found_by_arduino(package, tmp_path):
    """What shows that the test above is one of the layout."""
    moved = tmp_path / "libraries" / "copier"
    shutil.copytree(package, moved)
    (moved / "src").rename(moved / "source")
    command = arduino_command(moved, tmp_path / "out", moved / "examples" / "copier" / "copier.ino")
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "copier.h: No such file" in result.stderr


@pytest.mark.cases(0)
@needs("arm-none-eabi-gcc", "arm-none-eabi-objdump", packages="gcc-arm-none-eabi, libnewlib-arm-none-eabi")
def test_nothing_is_fused_in_gnu_mode(package, bundle, tmp_path):
    """Boards compile so, and a library cannot change it."""
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"]
    command += ["-std=gnu17", "-Os", "-DCOPIER_REPRODUCIBLE", "-DCOPIER_CONTRACTION_IS_OFF", "-c"]
    fused = {}
    for folder in (package / "src", bundle.path):
        run(*command, folder / "copier.c", "-o", tmp_path / "x.o")
        fused[folder] = len(re.findall(r"\tvfn?m[as]\.", run("arm-none-eabi-objdump", "-d", tmp_path / "x.o")))
    assert fused[package / "src"] == 0
    assert fused[bundle.path] > 0


@needs("gcc", packages="gcc")
def test_small_processors_are_refused_in_a_sentence(package, tmp_path):
    command = ["gcc", "-std=gnu11", "-U__SIZEOF_INT__", "-D__SIZEOF_INT__=2", "-Wfatal-errors", "-fsyntax-only"]
    result = subprocess.run([*command, package / "src" / "copier.c"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "needs a processor with an int of 32 bits" in result.stderr


# --- PlatformIO -------------------------------------------------------------------------------------------------------


def test_library_json_follows_the_schema(package):
    """The rules that PlatformIO 6.2 checks: `pio pkg pack` takes it."""
    data = json.loads((package / "library.json").read_text())
    assert {*data} <= {"$schema", "name", "version", "description", "keywords", "homepage"} | {
        *("frameworks", "platforms", "headers", "examples")
    }
    assert re.fullmatch(r"[^:;/,@<>]{1,100}", data["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["version"])
    assert len(data["description"]) <= 1000
    assert all(re.fullmatch(r"[a-z\d_+. -]{1,50}", word) for word in data["keywords"])
    assert (data["frameworks"], data["platforms"]) == ("*", "*")
    assert (package / "src" / data["headers"]).is_file()
    for example in data["examples"]:
        assert {*example} == {"name", "base", "files"}
        assert all((package / example["base"] / name).is_file() for name in example["files"])


# --- ESP-IDF and Zephyr -----------------------------------------------------------------------------------------------


def test_yaml_files_have_the_keys_that_are_known(package):
    component = yaml.safe_load((package / "idf_component.yml").read_text())
    assert {*component} == {"version", "description", "url", "dependencies"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", component["version"])
    assert component["dependencies"] == {"idf": ">=5.0"}
    module = yaml.safe_load((package / "zephyr" / "module.yml").read_text())
    assert {*module} == {"name", "build", "samples"}
    assert {*module["build"]} == {"cmake", "kconfig"}
    assert (package / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    assert (package / module["build"]["kconfig"]).is_file()
    assert all((package / place).is_dir() for place in module["samples"])
    sample = yaml.safe_load((package / "samples" / "copier" / "sample.yaml").read_text())
    (pattern,) = sample["tests"]["sample.copier"]["harness_config"]["regex"]
    assert re.search(pattern, "golden vectors: largest error 8.59 % of what is allowed")
    assert not re.search(pattern, "golden vectors: largest error 859.00 % of what is allowed: wrong")


def test_the_symbol_of_kconfig_is_the_one_that_is_asked_for(package):
    kconfig = (package / "zephyr" / "Kconfig").read_text()
    (symbol,) = re.findall(r"^config (\w+)$", kconfig, re.MULTILINE)
    assert all(line.startswith("\t") for line in kconfig.splitlines()[1:])
    assert f"if(CONFIG_{symbol})" in (package / "zephyr" / "CMakeLists.txt").read_text()
    assert f"CONFIG_{symbol}=y" in (package / "samples" / "copier" / "prj.conf").read_text()
    assert f"CONFIG_{symbol}=y" in (package / "README.md").read_text()


PROJECT_CMAKE = """
function(idf_component_register)
  cmake_parse_arguments(its "" "" "SRCS;INCLUDE_DIRS;PRIV_REQUIRES" ${ARGN})
  get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  add_library(${name} STATIC ${its_SRCS})
  target_include_directories(${name} PUBLIC ${its_INCLUDE_DIRS})
  target_link_libraries(${name} PRIVATE ${its_PRIV_REQUIRES} m)
endfunction()
macro(project name)
  _project(${name} C)
  include_directories(FREERTOS)
  add_subdirectory(${EXTRA_COMPONENT_DIRS} component)
  add_subdirectory(main)
  file(WRITE ${CMAKE_BINARY_DIR}/start.c "void app_main(void); int main(void) { app_main(); }")
  add_executable(program ${CMAKE_BINARY_DIR}/start.c)
  target_link_libraries(program main)
endmacro()
"""
ZEPHYR_CMAKE = """
macro(zephyr_library_named name)
  set(library ${name})
  add_library(${library} STATIC)
endmacro()
macro(zephyr_library_sources)
  target_sources(${library} PRIVATE ${ARGN})
endmacro()
macro(zephyr_include_directories)
  target_include_directories(${library} PUBLIC ${ARGN})
endmacro()
macro(project name)
  _project(${name} C)
  set(CONFIG_CRN_COPIER y)
  add_subdirectory(${ZEPHYR_EXTRA_MODULES}/zephyr module)
  add_executable(app)
  target_include_directories(app PRIVATE $ENV{ZEPHYR_BASE}/include)
  target_link_libraries(app crn_copier m)
endmacro()
"""
TYPED = "fox\nFox\na\n"


@needs("cmake", packages="cmake")
def test_the_example_for_esp_idf_builds_and_answers(package, answers, tmp_path):
    """By functions that do what ESP-IDF documents of its own; the component has the folder's name."""
    moved = shutil.copytree(package, tmp_path / "another_name")
    freertos, idf = tmp_path / "include" / "freertos", tmp_path / "idf" / "tools" / "cmake"
    freertos.mkdir(parents=True)
    idf.mkdir(parents=True)
    (freertos / "FreeRTOS.h").write_text("#include <stdlib.h>\n")
    (freertos / "task.h").write_text("static inline void vTaskDelay(int ticks) { (void)ticks, exit(0); }\n")
    (idf / "project.cmake").write_text(PROJECT_CMAKE.replace("FREERTOS", str(freertos.parent)))
    flags = "-DCMAKE_C_FLAGS=-std=gnu17 -Wall -Wextra -Werror -DCOPIER_NO_VECTORS"
    project = ("env", f"IDF_PATH={tmp_path / 'idf'}", "cmake", "-S", moved / "examples" / "esp_idf")
    run(*project, "-B", tmp_path / "b", flags)
    run("cmake", "--build", tmp_path / "b")
    check_output(run(tmp_path / "b" / "program", text=TYPED), answers)


@needs("cmake", packages="cmake")
def test_the_sample_for_zephyr_builds_and_answers(package, answers, tmp_path):
    """By functions that do what Zephyr documents of its own."""
    base, cmake = tmp_path / "zephyr", tmp_path / "zephyr" / "share"
    for name in ("console", "sys"):
        (base / "include" / "zephyr" / name).mkdir(parents=True)
    cmake.mkdir()
    (base / "include" / "zephyr" / "sys" / "printk.h").write_text("#include <stdio.h>\n#define printk printf\n")
    (base / "include" / "zephyr" / "console" / "console.h").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        "static inline void console_getline_init(void) {}\n"
        "static inline char *console_getline(void)\n{\n    static char line[99];\n"
        "    if (fgets(line, sizeof line, stdin) == NULL)\n        exit(0);\n"
        '    line[strcspn(line, "\\n")] = 0;\n    return line;\n}\n'
    )
    (cmake / "ZephyrConfig.cmake").write_text(ZEPHYR_CMAKE)
    flags = "-DCMAKE_C_FLAGS=-std=c17 -Wall -Wextra -Werror -DCOPIER_NO_VECTORS"
    places = (f"-DZephyr_DIR={cmake}", f"-DZEPHYR_EXTRA_MODULES={package}")
    sample = ("env", f"ZEPHYR_BASE={base}", "cmake", "-S", package / "samples" / "copier")
    run(*sample, "-B", tmp_path / "b", *places, flags)
    run("cmake", "--build", tmp_path / "b")
    check_output(run(tmp_path / "b" / "app", text=TYPED), answers)
