"""Runs a bundle's graphs in one runtime, without this toolkit: benchmarks/compatibility.py calls it.

    python compatibility_runner.py RUNTIME CASE OUT

It needs numpy and the runtime. CASE is a folder with graphs, `case.json` (names, state and its update rules) and
`tokens.npy`; OUT gets `result.json` (what failed first) and `step.npy` and `prefill.npy` (logits). Then it says
"ready", and answers every line that it reads with the processor time of a step in microseconds, median of a sequence.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Array = np.ndarray[Any, Any]
Graph = Callable[[Mapping[str, Array]], Mapping[str, Array]]
TIMED_FROM = 4
"""Steps before are not timed."""


# --- runtimes: each loads a graph and gives a function of its inputs --------------------------------------------------


def load_onnxruntime(path: Path, about: dict[str, Any]) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: dict(zip(about["outputs"], session.run(about["outputs"], dict(feed)), strict=True))


def load_openvino(path: Path, about: dict[str, Any]) -> Graph:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    request = compiled.create_infer_request()

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = request.infer(dict(feed), share_inputs=False)
        return {name: np.array(results[name]) for name in about["outputs"]}

    return run


def load_reference(path: Path, about: dict[str, Any]) -> Graph:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda feed: dict(zip(about["outputs"], evaluator.run(about["outputs"], dict(feed)), strict=True))


def load_tract(path: Path, about: dict[str, Any]) -> Graph:
    import tract

    model = tract.onnx().load(str(path)).into_model().into_runnable()

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = model.run([feed[name] for name in about["inputs"]])
        return {name: value.to_numpy() for name, value in zip(about["outputs"], results, strict=True)}

    return run


def load_mnn(path: Path, about: dict[str, Any]) -> Graph:
    import _tools  # MNN's converter; its console script also installs packages
    import MNN

    converted = path.with_suffix(".mnn")
    words = ["MNNConvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted), "--bizCode", "test"]
    _tools.mnnconvert(words)
    if not converted.exists():
        raise RuntimeError("the converter wrote no model")
    options = {"backend": 0, "numThread": 1, "precision": "high"}
    manager = MNN.nn.create_runtime_manager((options,))
    module = MNN.nn.load_module_from_file(str(converted), about["inputs"], about["outputs"], runtime_manager=manager)
    kinds = {"float32": MNN.expr.float, "int64": MNN.expr.int64, "int32": MNN.expr.int}

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        given = []
        for name in about["inputs"]:
            value = feed[name]
            kind = "int32" if value.dtype == np.int64 else str(value.dtype)  # MNN's integers have 32 bits
            content = np.ascontiguousarray(value.astype(kind))
            given.append(MNN.expr.const(content, list(value.shape), MNN.expr.NCHW, kinds[kind]))
        results = module.forward(given)
        results = results if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(about["outputs"]):  # what it cannot compute it leaves out, and prints why
            raise RuntimeError(f"{len(results)} outputs of {len(about['outputs'])}")
        return {name: np.array(value.read()) for name, value in zip(about["outputs"], results, strict=True)}

    return run


def load_iree(path: Path, about: dict[str, Any]) -> Graph:
    import subprocess

    import iree.compiler
    import iree.runtime

    imported = path.with_suffix(".mlir")
    command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(path), "-o", str(imported)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    target = ["--iree-llvmcpu-target-cpu=host"]
    content = iree.compiler.compile_file(str(imported), target_backends=["llvm-cpu"], extra_args=target)
    config = iree.runtime.Config("local-sync")
    module = iree.runtime.load_vm_module(iree.runtime.VmModule.copy_buffer(config.vm_instance, content), config)
    function = getattr(module, about["graph_name"])

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = function(*(np.asarray(feed[name], order="C") for name in about["inputs"]))
        return {name: value.to_host() for name, value in zip(about["outputs"], results, strict=True)}

    return run


def load_tvm(path: Path, about: dict[str, Any]) -> Graph:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(path), keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = machine["main"](*(tvm.runtime.tensor(feed[name]) for name in about["inputs"]))
        return {name: value.numpy() for name, value in zip(about["outputs"], results, strict=True)}

    return run


def load_ncnn(path: Path, about: dict[str, Any]) -> Graph:
    """Through pnnx, by its command: it exits with 0 whatever comes out."""
    import subprocess

    import ncnn

    command = [str(Path(sys.executable).parent / "pnnx"), path.name, "fp16=0"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    written = path.with_name(f"{path.stem}.ncnn.param".replace("-", "_"))
    if done.returncode != 0 or not written.exists():
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(f"pnnx, exit code {done.returncode}: {lines[-1] if lines else 'no word'}")
    network = ncnn.Net()
    if network.load_param(str(written)) != 0:
        known = [line.split() for line in written.read_text().splitlines()[2:]]
        unknown = next((words for words in known if network_lacks(words[0])), None)
        raise RuntimeError(f"load_param: no layer {' '.join(unknown[:2])}" if unknown else "load_param failed")
    raise RuntimeError("loads: inputs of this loop are not those of pnnx")


def network_lacks(layer: str) -> bool:
    """Whether ncnn has no layer of a type."""
    import ncnn

    return ncnn.layer_to_index(layer) < 0 if hasattr(ncnn, "layer_to_index") else "." in layer


def load_litert(path: Path, about: dict[str, Any]) -> Graph:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner(about["graph_name"])
    plain = {name: name.replace(".", "_") for name in (*about["inputs"], *about["outputs"])}

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = runner(**{plain[name]: feed[name] for name in about["inputs"]})
        return {name: results[plain[name]] for name in about["outputs"]}

    return run


def load_executorch(path: Path, about: dict[str, Any]) -> Graph:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    portable_lib._unsafe_reset_threadpool(1)
    method = runtime.load_program(path).load_method(about["graph_name"])

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = method.execute([torch.from_numpy(np.asarray(feed[name], order="C")) for name in about["inputs"]])
        return {name: value.numpy() for name, value in zip(about["outputs"], results, strict=True)}

    return run


LOADERS: dict[str, Callable[[Path, dict[str, Any]], Graph]] = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "onnx.reference": load_reference,
    "tract": load_tract,
    "MNN": load_mnn,
    "IREE": load_iree,
    "TVM": load_tvm,
    "ncnn": load_ncnn,
    "LiteRT": load_litert,
    "ExecuTorch": load_executorch,
}


# --- the loop of a page: state in, state out --------------------------------------------------------------------------


class State:
    """What the graphs carry, one sequence: buffers of fixed length for rows, or what came back."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.position = case, 0
        self.values = {tensor["input"]: np.zeros(tensor["buffer"], np.float32) for tensor in case["state"]}

    def feed(self, pad: int) -> dict[str, Array]:
        given = {}
        for tensor in self.case["state"]:
            value = self.values[tensor["input"]]
            whole = self.case["pool"] != "growing" or tensor["update"] == "replace"
            given[tensor["input"]] = value if whole else value[: self.position + pad]
        return given

    def take(self, outputs: Mapping[str, Array], time_steps: int) -> None:
        for tensor in self.case["state"]:
            value = outputs[tensor["output"]]
            if tensor["update"] == "replace":
                self.values[tensor["input"]] = np.array(value).reshape(value.shape)
            else:
                buffer = self.values[tensor["input"]]
                buffer[self.position : self.position + time_steps] = np.reshape(value, (time_steps, *buffer.shape[1:]))
        self.position += time_steps


def run_graph(graph: Graph, case: dict[str, Any], name: str, tokens: Array, chunk: int) -> tuple[Array, list[float]]:
    """Logits [T, V] of a sequence in chunks of so many tokens, and the microseconds of each."""
    state, about = State(case), case["graphs"][name]
    index = np.dtype(case["index_type"])
    logits, times_us = [], []
    for start in range(0, tokens.size, chunk):
        part = tokens[start : start + chunk]
        feed = state.feed(about["pad_rows"])
        feed |= {"tokens": part[None].astype(index), "position": np.array(start, index)}
        before = time.process_time_ns()
        outputs = graph({name: feed[name] for name in about["inputs"]})
        times_us.append((time.process_time_ns() - before) / 1e3)
        state.take(outputs, part.size)
        logits.append(np.array(outputs["logits"]).reshape(part.size, -1))
    return np.concatenate(logits), times_us


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)}"[:400]


def take_turns(answers: TextIO, again: Callable[[], list[float]]) -> None:
    """Say that all is written, and answer every line with the time of a step."""
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        times_us = again()
        print(statistics.median(times_us[TIMED_FROM:] or times_us), file=answers, flush=True)


def main() -> None:
    runtime, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    case = json.loads((folder / "case.json").read_text())
    tokens, result, graphs = np.load(folder / "tokens.npy"), {}, {}
    for name, chunk in (("step", 1), ("prefill", case["prefill_chunk"])):
        about, entry = case["graphs"][name], {"phase": "load"}
        result[name] = entry
        (out / "result.json").write_text(json.dumps(result))  # a crash leaves the phase that it happened in
        try:
            graphs[name] = graph = LOADERS[runtime](folder / about["file"], about)
            entry["phase"] = "run"
            (out / "result.json").write_text(json.dumps(result))
            logits, _ = run_graph(graph, case, name, tokens, chunk)
        except BaseException as error:  # whatever a runtime raises is a result; some are no Exception
            entry["error"] = first_line(error)
            continue
        np.save(out / f"{name}.npy", logits)
        entry["phase"] = "done"
    (out / "result.json").write_text(json.dumps(result))
    take_turns(answers, lambda: run_graph(graphs["step"], case, "step", tokens, 1)[1])


if __name__ == "__main__":
    main()
