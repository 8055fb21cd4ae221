"""`causalrn-export doctor`: what each ending of a probe becomes, and the report."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from causalrn.cli import (
    doctor_command,
    doctor_converted,
    doctor_litert_coreml,
    doctor_probes,
    doctor_tensorrt,
    doctor_tools,
)
from causalrn.cli.doctor_command import Check, DoctorReport, all_checks, run_checks
from causalrn.cli.doctor_probe import Probe
from causalrn.compiling import programs
from causalrn.compiling.c_compiler import find_compiler
from tests.c_tools import needs_c_compiler
from tests.converted_tools import needs
from tests.executorch_tools import needs_executorch

ESSENTIAL = ("numpy", "safetensors", "onnxruntime, CPU")
MORE = (
    "export, export to C, run C, export to web, run web, quantize, compile, run engines, run executorch, run litert, "
    "run coreml"
)


@pytest.fixture
def fake_tool(tmp_path, monkeypatch):
    """Puts a shell script on an otherwise empty PATH."""
    monkeypatch.setattr("shutil.which", lambda name: _existing(tmp_path / name))

    def write(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return write


def _existing(path):
    return str(path) if path.is_file() else None


@pytest.fixture
def invoke(monkeypatch):
    """Runs the command on probes given by name and status."""

    def run(statuses, *arguments):
        probes = [Probe(name, status, "detail [extra]", "remedy") for name, status in statuses.items()]
        checks = {"run bundles": [Check("canned", lambda: probes)]}
        monkeypatch.setattr(doctor_command, "all_checks", lambda: checks)
        return CliRunner().invoke(doctor_command.command, list(arguments))

    return run


@pytest.mark.parametrize("probe", [doctor_probes.probe_numpy, doctor_probes.probe_safetensors])
def test_package_probe_works_here(probe):
    assert probe().status == "works"


@pytest.mark.parametrize("probe", [doctor_probes.probe_onnxruntime, doctor_probes.probe_opset_23])
def test_onnxruntime_probe_runs_the_embedded_model(probe):
    found = probe()
    assert found.status == "works", found.detail
    assert found.remedy == ""


def test_onnxruntime_probe_wrong_result_is_broken():
    code = doctor_probes._model_code(doctor_probes.EXP_OPSET_21, "CPUExecutionProvider", "x", "ran")
    assert doctor_probes.probe_python("onnxruntime", code, ["onnxruntime"], "remedy").status == "broken"


def test_onnxruntime_probe_unknown_opset_is_broken(monkeypatch):
    model = base64.b64decode(doctor_probes.RMS_OPSET_23)
    assert model.endswith(b"\x10\x17")  # the version field holds 23
    monkeypatch.setattr(doctor_probes, "RMS_OPSET_23", base64.b64encode(model[:-1] + b"\x7f").decode())
    found = doctor_probes.probe_opset_23()
    assert found.status == "broken"
    assert "--opset 17" in found.remedy


def test_provider_that_falls_back_to_the_cpu_is_broken(monkeypatch):
    listed = "print('CPUExecutionProvider AzureExecutionProvider NoSuchExecutionProvider')"
    monkeypatch.setattr(doctor_probes, "_PROVIDERS", listed)
    (found,) = doctor_probes.probe_providers()
    assert (found.name, found.status) == ("onnxruntime, NoSuch", "broken")


@pytest.mark.parametrize(
    "probe",
    [
        doctor_probes.probe_torch,
        doctor_probes.probe_torch_cuda,
        doctor_probes.probe_onnx,
        doctor_probes.probe_torch_export,
        doctor_probes.probe_quantize,
    ],
)
def test_optional_package_missing_names_the_extra(probe, monkeypatch):
    for package in ("torch", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    found = probe()
    assert (found.status, found.remedy) == ("missing", "pip install 'causalrn[export]'")
    assert "not installed" in found.detail


def test_package_hidden_by_an_import_hook_is_not_installed(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", refuse)
    assert not doctor_probes.is_installed("torch")


def test_package_that_kills_the_interpreter_is_broken():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    found = doctor_probes.probe_python("crash", code, [], "remedy")
    assert found == Probe("crash", "broken", "crashed: Killed", "remedy")


def test_package_that_raises_is_broken_with_one_line():
    code = "raise OSError('/home/somebody/libfoo.so: cannot open\\nsecond line')"
    found = doctor_probes.probe_python("raise", code, [], "remedy")
    assert found == Probe("raise", "broken", "OSError: libfoo.so: cannot open", "remedy")


def test_code_that_exits_with_3_is_missing():
    found = doctor_probes.probe_python("gpu", "print('no GPU'); raise SystemExit(3)", [], "reinstall", "buy one")
    assert found == Probe("gpu", "missing", "no GPU", "buy one")


def test_tensorrt_facts_stop_at_the_first_failure(tmp_path, monkeypatch):
    fake = "__version__ = '1.0'\nclass ILogger:\n    ERROR = 1\ndef Builder(log):\n    raise RuntimeError('no GPU')\n"
    (tmp_path / "tensorrt_fake.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    probes = doctor_tensorrt.probe_tensorrt("TensorRT", "tensorrt_fake", "tensorrt")
    assert [probe.status for probe in probes] == ["works", "broken", "missing", "missing"]
    assert probes[1].detail == "RuntimeError: no GPU"


def test_cuda_bindings_say_what_cuda_says(monkeypatch):
    monkeypatch.setattr(doctor_tensorrt, "is_installed", lambda package: False)
    assert doctor_tensorrt.probe_cuda_bindings().remedy == "pip install cuda-bindings"
    monkeypatch.undo()
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'causalrn[tensorrt-rtx]'")
    found = doctor_tensorrt.probe_cuda_bindings()
    assert found.status == "works" or (found.status == "broken" and found.detail.startswith("CUDA error ")), found


def test_tensorrt_missing_names_the_extra():
    (found,) = doctor_tensorrt.probe_tensorrt("TensorRT", "no_such_package", "tensorrt")
    assert (found.status, found.remedy) == ("missing", "pip install 'causalrn[tensorrt]'")


@pytest.mark.parametrize(
    "probe",
    [
        doctor_tools.probe_c_compiler,
        doctor_tools.probe_vector_instructions,
        doctor_tools.probe_cortex_m,
        doctor_tools.probe_aarch64,
        doctor_tools.probe_wasm,
        doctor_tools.probe_node,
        doctor_tools.probe_chromium,
        doctor_tools.probe_nvidia_driver,
    ],
)
def test_tool_not_found_is_missing_with_a_remedy(probe, fake_tool):
    found = probe()
    assert found.status == "missing"
    assert found.remedy


def test_emulator_not_found_says_which_one(fake_tool):
    fake_tool("arm-none-eabi-gcc", "exit 0")
    assert doctor_tools.probe_cortex_m().detail == "qemu-system-arm not found"


def test_compiler_that_fails_is_broken(fake_tool):
    fake_tool("cc", "echo '/home/somebody/probe.c:1: error: no headers' >&2; echo 'giving up' >&2; exit 1")
    found = doctor_tools.probe_c_compiler()
    assert (found.status, found.detail) == ("broken", "probe.c:1: error: no headers")


def test_compiler_that_writes_nothing_is_broken(fake_tool):
    fake_tool("cc", "exit 0")
    fake_tool("clang", "exit 0")
    assert doctor_tools.probe_c_compiler().status == "broken"
    assert doctor_tools.probe_wasm().status == "broken"


def test_compiler_that_cannot_start_is_broken(fake_tool, tmp_path):
    fake_tool("cc", "exit 0")
    (tmp_path / "cc").write_text("#!/no/such/shell\n")
    assert doctor_tools.probe_c_compiler().status == "broken"


def test_tool_that_hangs_is_stopped_with_its_children(fake_tool, monkeypatch):
    monkeypatch.setattr(doctor_tools, "TOOL_TIMEOUT_S", 0.3)
    fake_tool("nvidia-smi", "sleep 600 & wait")  # the child keeps the pipe open
    found = doctor_tools.probe_nvidia_driver()
    assert (found.status, found.detail) == ("broken", "no answer in 0.3 s")
    assert found.remedy == "try again if this machine is busy; else: needs an NVIDIA GPU and its driver"
    assert not programs._running


def test_browser_without_the_answer_is_broken(fake_tool):
    fake_tool("chromium", "echo '<html></html>'")
    assert doctor_tools.probe_chromium().status == "broken"


def test_browser_with_the_answer_works(fake_tool):
    fake_tool("chromium", "echo '<body>answer 42 Mozilla/5.0 HeadlessChrome/150.0.1 Safari</body>'")
    assert doctor_tools.probe_chromium().detail == "ran a page, version 150.0.1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("first\nlast\n\n", "last"),
        ("cannot open /usr/lib/x/libcuda.so.1: no", "cannot open libcuda.so.1: no"),
        (r"cannot open C:\Users\somebody\a.dll", "cannot open a.dll"),
        ("see https://example.org/a/b for help", "see for help"),
        ("1 / 2 and a/b", "1 / 2 and a/b"),
        ("x" * 500, "x" * 157 + "..."),
    ],
)
def test_last_line_drops_folders_and_addresses(text, line):
    assert programs.last_line(text) == line


def test_check_that_raises_becomes_a_probe():
    def fail():
        raise ValueError("first\nwhat went wrong")

    (found,) = Check("fails", fail).try_it()
    assert (found.name, found.status, found.detail) == ("fails", "broken", "ValueError: what went wrong")


def test_checks_keep_their_order():
    checks = {"a": [Check("1", lambda: [Probe("1", "works", ""), Probe("2", "works", "")])], "b": [], "c": []}
    checks["c"] = [Check("3", lambda: Probe("3", "works", ""))]
    found = run_checks(checks)
    assert {group: [probe.name for probe in probes] for group, probes in found.items()} == {
        "a": ["1", "2"],
        "b": [],
        "c": ["3"],
    }


def test_json_has_the_documented_keys(invoke, tmp_path):
    path = tmp_path / "doctor.json"
    result = invoke(dict.fromkeys(ESSENTIAL, "works"), "--json", str(path))
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert list(report) == ["report", "version", "passed", "causalrn", "environment", "works", "groups"]
    assert f"{report['environment']['processor_family']}." in result.output
    assert (report["report"], report["version"], report["passed"]) == ("causalrn-doctor", 1, True)
    assert list(report["environment"]) == [
        "python",
        "platform",
        "processor",
        "processor_family",
        "cpu_count",
        "packages",
    ]
    assert report["environment"]["packages"]["numpy"]
    assert [verb for verb, works in report["works"].items() if works] == ["run", "run triton"]
    assert list(report["works"]) == [
        "run",
        "train",
        "export",
        "export to C",
        "run C",
        "export to web",
        "run web",
        "quantize",
        "compile",
        "run engines",
        "run executorch",
        "run litert",
        "run coreml",
        "run triton",
    ]
    assert report["groups"][0]["probes"][0] == {
        "name": "numpy",
        "status": "works",
        "detail": "detail [extra]",
        "remedy": "remedy",
    }


@pytest.mark.parametrize("status", ["broken", "missing"])
@pytest.mark.parametrize("name", ESSENTIAL)
def test_exit_code_is_1_when_bundles_cannot_run(name, status, invoke):
    result = invoke({**dict.fromkeys(ESSENTIAL, "works"), name: status})
    assert result.exit_code == 1
    assert f"Works here: nothing. Does not: run, train, {MORE}, run triton." in result.output


def test_table_shows_status_detail_and_remedy(invoke):
    result = invoke({**dict.fromkeys([*ESSENTIAL, "torch, CPU"], "works"), "onnx": "missing"})
    assert "onnx              missing  detail [extra]: remedy" in result.output
    assert f"Works here: run, train, run triton. Does not: {MORE}." in result.output


def test_train_needs_no_onnxruntime():
    names = ("numpy", "safetensors", "torch, CPU", "onnx", "torch.onnx export")
    report = DoctorReport({"all": [Probe(name, "works", "") for name in names]})
    assert [verb for verb, works in report.works.items() if works] == ["train", "export"]


@pytest.mark.parametrize("flavor", ["TensorRT-RTX", "TensorRT"])
@pytest.mark.parametrize(
    ("facts", "verbs"), [(("build",), ["compile"]), (("build", "run"), ["compile", "run engines"])]
)
def test_either_tensorrt_compiles_and_runs_as_far_as_it_gets(flavor, facts, verbs):
    names = ["onnx", "cuda-bindings", *(f"{flavor}, {fact}" for fact in facts)]
    report = DoctorReport({"all": [Probe(name, "works", "") for name in names]})
    assert [verb for verb, works in report.works.items() if works] == verbs


@needs("litert")
def test_litert_runs_a_model():
    found = doctor_litert_coreml.probe_litert()
    assert (found.name, found.status) == ("LiteRT", "works"), found.detail


@needs("coreml")
def test_coremltools_converts_a_program():
    found = doctor_litert_coreml.probe_coremltools()
    assert (found.name, found.status) == ("coremltools", "works"), found.detail


@needs_executorch
def test_executorch_runs_a_program():
    found = doctor_converted.probe_executorch()
    assert (found.name, found.status) == ("ExecuTorch", "works"), found.detail


def test_names_that_decide_are_names_of_checks():
    names = {check.name for group in all_checks().values() for check in group}
    assert {*ESSENTIAL, "torch, CPU", "onnx", "torch.onnx export", "quantization", "cuda-bindings"} <= names


def test_import_needs_no_optional_package():
    code = (
        "import sys; sys.modules.update(torch=None, onnx=None, onnxruntime=None, numpy=None, safetensors=None);"
        "import causalrn.cli.doctor_command"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_measuring_with_a_broken_package_keeps_the_diagnosis(call, monkeypatch):
    monkeypatch.setattr(doctor_command, "run_checks", lambda checks: {"run bundles": []})

    def broken(threads):
        raise ImportError("libfoo.so missing")

    monkeypatch.setattr("causalrn.runtimes.bench.measuring.measure_machine", broken)
    code, out, err = call("doctor", "--measure")
    assert code == 2
    assert "Works here" in out
    assert "this machine was not measured: libfoo.so missing" in err


def test_measuring_without_a_compiler_keeps_the_diagnosis(call, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_command, "run_checks", lambda checks: {"run bundles": []})
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr("causalrn.runtimes.bench.measuring._library", lambda isa: find_compiler())
    code, out, err = call("doctor", "--measure", "--json", tmp_path / "d.json")
    assert code == 2
    assert "this machine was not measured: CC=no-such-compiler is not there" in err
    assert "Works here" in out
    assert "machine" not in json.loads((tmp_path / "d.json").read_text())


@needs_c_compiler
def test_machine_is_measured_and_can_be_predicted_for(call, tmp_path, monkeypatch, exact_bundle):
    monkeypatch.setattr(doctor_command, "run_checks", lambda checks: {"run bundles": []})
    path = tmp_path / "d.json"
    out = call("doctor", "--measure", "--json", path)[1]
    assert "exp, float32" in out
    assert call("bench", exact_bundle, "--predict", "--device", path)[0] == 0
    assert call("doctor", "--threads", 2)[2].startswith("Error: --threads needs --measure")
