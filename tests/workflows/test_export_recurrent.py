"""A user's recurrent model as a bundle: exported, run, verified, quantized, compiled, without torch on the device."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import causalrn
from causalrn.bundle.bundle_folder import Bundle
from causalrn.errors import CompileError, ConfigError, FallbackWarning, InputError
from examples.own_model import broken, gated_delta_rule, gated_linear_attention, lstm, selective_state_space

V, E = 29, 32
TOKENS = np.random.default_rng(0).integers(0, V, (3, 24))


class GrowingModel(nn.Module):
    """Attention with a cache that grows along its third axis, and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.capacity = V, 40
        self.embedding, self.positions = nn.Embedding(V, E), nn.Embedding(self.capacity, E)
        self.products, self.head = nn.Linear(E, 3 * E), nn.Linear(E, V)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.prefill(tokens, self.initial_state(tokens.shape[0]), torch.tensor(0))[0]
        return logits

    def step(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
        logits, state = self.prefill(tokens[:, None], state, position)
        return logits[:, 0], state

    def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
        time = tokens.shape[1]
        x = self.embedding(tokens) + self.positions(position + torch.arange(time))
        q, k, v = (part.reshape(-1, time, 2, E // 2).transpose(1, 2) for part in self.products(x).chunk(3, -1))
        k, v = torch.cat([state["keys"], k], 2), torch.cat([state["values"], v], 2)  # [B, 2, t, E / 2]
        mask = torch.ones(time, k.shape[2], dtype=torch.bool).tril(k.shape[2] - time)
        read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(x + read.transpose(1, 2).reshape(-1, time, E)), {"keys": k, "values": v}

    def initial_state(self, batch: int) -> Any:
        empty = self.head.weight.new_zeros(batch, 2, 0, E // 2)
        return {"keys": empty, "values": empty.clone()}


class TimeMajorModel(GrowingModel):
    """The same with time-major caches, whose rows a graph can give alone, and a sum beside them."""

    def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
        moved = {name: state[name].permute(1, 2, 0, 3) for name in ("keys", "values")}
        time = tokens.shape[1]
        x = self.embedding(tokens) + self.positions(position + torch.arange(time))
        q, k, v = (part.reshape(-1, time, 2, E // 2).transpose(1, 2) for part in self.products(x).chunk(3, -1))
        new = {name: value.permute(2, 0, 1, 3) for name, value in (("keys", k), ("values", v))}  # [T, B, 2, E / 2]
        after = {name: torch.cat([state[name], rows], 0) for name, rows in new.items()}
        k, v = torch.cat([moved["keys"], k], 2), torch.cat([moved["values"], v], 2)
        mask = torch.ones(time, k.shape[2], dtype=torch.bool).tril(k.shape[2] - time)
        read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        sums = state["sum"][:, None] + x.cumsum(1)
        return self.head(x + read + torch.tanh(sums)), {**after, "sum": sums[:, -1]}

    def initial_state(self, batch: int) -> Any:
        empty = self.head.weight.new_zeros(0, batch, 2, E // 2)
        return {"keys": empty, "values": empty.clone(), "sum": self.head.weight.new_zeros(batch, E)}


class StartingModel(nn.Module):
    """A state that does not begin with zeros, and one tensor of it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.start = nn.Embedding(V, E), nn.Parameter(torch.randn(E))
        self.head = nn.Linear(E, V)

    def forward(self, tokens: Tensor) -> Tensor:
        sums = self.start + self.embedding(tokens).cumsum(1)
        counts = torch.arange(8, 8 + tokens.shape[1])[None, :, None]
        logits: Tensor = self.head(torch.tanh(sums / counts))
        return logits

    def step(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        total, count = state[0] + self.embedding(tokens), state[1]
        return self.head(torch.tanh(total / count[:, None])), (total, count + 1)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.start.detach().expand(batch, -1).clone(), torch.full((batch,), 8)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gated linear attention": gated_linear_attention.make,
    "selective state space": selective_state_space.make,
    "gated delta rule": gated_delta_rule.make,
    "lstm": lstm.make,
    "growing": lambda: made(GrowingModel),
    "time-major": lambda: made(TimeMajorModel),
    "starting": lambda: made(StartingModel),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Bundles by model, exported when they are first asked for."""
    root, known = tmp_path_factory.mktemp("bundles"), {}

    def of(name: str) -> Path:
        if name not in known:
            alphabet = "letters" if name == "lstm" else None
            known[name] = root / name.replace(" ", "_")
            causalrn.export_recurrent(MODELS[name](), vocabulary=V, output=known[name], alphabet=alphabet)
        return known[name]

    return of


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bundle_gives_the_logits_of_the_model_in_steps_and_prefills(name: str, bundles: Callable[[str], Path]) -> None:
    model = MODELS[name]().double()
    with torch.no_grad():
        expected = model(torch.from_numpy(TOKENS)).numpy()
    with causalrn.open_session(bundles(name)) as session:
        session.reset(3)
        parts = [session.prefill(TOKENS[:, :9]), *(session.step(TOKENS[:, i])[:, None] for i in range(9, 20))]
        parts.append(session.prefill(TOKENS[:, 20:]))
    error = np.abs(np.concatenate(parts, axis=1) - expected).max() / np.abs(expected).max()
    assert error < 5e-6


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize("name", MODELS)
def test_bundle_passes_the_check_of_a_device(name: str, bundles: Callable[[str], Path]) -> None:
    report = causalrn.verify(bundles(name), time_budget=60)
    assert report.passed, [result.summary for result in report.report.results if not result.passed]
    levels = {result.level for result in report.report.results}
    assert levels == {"logits", "state", "split", "calls", "drift", "determinism", "kernels", "guards"}


@pytest.mark.cases(0)
@pytest.mark.slow
def test_device_check_finds_another_weight(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    import onnx_ir as ir

    from causalrn.bundle.bundle_folder import seal_bundle
    from causalrn.bundle.graph_files import load_graphs, save_graphs

    folder = tmp_path / "other"
    shutil.copytree(bundles("gated delta rule"), folder)
    bundle = Bundle.open(folder)
    models = load_graphs(bundle)
    value = models["step.onnx"].graph.initializers["head.weight"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * 1.001, name=value.name)
    save_graphs(models, folder, checked=True)
    seal_bundle(folder, bundle.manifest)
    assert not causalrn.verify(folder, level=["logits", "calls"]).passed


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["growing", "time-major", "starting"])
def test_state_files_and_snapshots_go_on_bit_for_bit(name: str, bundles: Callable[[str], Path], tmp_path: Path) -> None:
    with causalrn.open_session(bundles(name)) as session, causalrn.open_session(bundles(name)) as other:
        session.reset(3)
        session.prefill(TOKENS[:, :7])
        session.save(tmp_path / "state.safetensors")
        expected = session.step(TOKENS[:, 7])
        other.load(tmp_path / "state.safetensors")
        assert np.array_equal(other.step(TOKENS[:, 7]), expected)


@pytest.mark.cases(0)
@pytest.mark.slow
def test_alphabet_and_capacity_are_the_bundles(bundles: Callable[[str], Path]) -> None:
    with causalrn.open_session(bundles("lstm")) as session:
        assert len("".join(step.text for step in session.generate("abc", max_new_tokens=3))) <= 3
    with causalrn.open_session(bundles("growing")) as session:
        session.prefill(np.zeros((1, 40), np.int64))
        with pytest.raises(causalrn.CapacityError):
            session.step([0])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["w8", "w8a8-dynamic", "fp16"])
@pytest.mark.cases(1)
def test_products_with_the_models_own_weights_are_quantized(
    scheme: str, bundles: Callable[[str], Path], tmp_path: Path
) -> None:
    small = causalrn.quantize(bundles("growing"), output=tmp_path / "small", scheme=scheme)
    before, after = (
        bundle.manifest.files["weights.bin"].size_bytes for bundle in (Bundle.open(bundles("growing")), small.bundle)
    )
    assert after < 0.8 * before
    assert causalrn.verify(small, level=["logits", "split", "calls"]).passed


@pytest.mark.slow
def test_narrow_pools_of_an_own_state_are_refused(bundles: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its state is the model's own"):
        causalrn.quantize(bundles("growing"), output=tmp_path / "small", scheme="w8", pool8=True)


@pytest.mark.cases(0)
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX")
@pytest.mark.parametrize("name", ["selective state space", "lstm"])
def test_step_of_constant_state_compiles_to_engines(name: str, bundles: Callable[[str], Path], tmp_path: Path) -> None:
    engine = causalrn.compile(bundles(name), output=tmp_path / "engine")
    assert set(engine.bundle.manifest.graphs) == set(Bundle.open(bundles(name)).manifest.graphs)


@pytest.mark.cases(1)
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX")
@pytest.mark.parametrize("name", ["growing", "time-major"])
def test_state_that_grows_is_not_compiled(name: str, bundles: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="the state of this model grows by itself"):
        causalrn.compile(bundles(name), output=tmp_path / "engine")


@pytest.mark.slow
def test_device_needs_neither_torch_nor_onnx(bundles: Callable[[str], Path]) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxscript')))\n"
        "import causalrn\n"
        f"print(causalrn.verify({str(bundles('growing'))!r}, level=['logits', 'state']).verdict)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("PASS\n", 0), result.stderr


@pytest.mark.parametrize(
    ("name", "pool", "updates"),
    [
        ("growing", "concat", ["replace", "replace"]),
        ("time-major", "growing", ["append", "replace", "append"]),
        ("starting", "none", ["replace", "replace"]),
    ],
)
def test_caches_whose_rows_can_be_told_apart_become_pools(
    name: str, pool: str, updates: list[str], bundles: Callable[[str], Path]
) -> None:
    state = Bundle.open(bundles(name)).manifest.state
    assert state.pool == pool
    assert sorted(tensor.update for tensor in state.tensors) == sorted(updates)


def test_weights_have_the_models_own_names(bundles: Callable[[str], Path]) -> None:
    import onnx

    graph = onnx.load(bundles("growing") / "step.onnx", load_external_data=False).graph
    assert {value.name for value in graph.initializer} >= {"head.weight", "products.weight", "positions.weight"}
    names = [value.name for value in (*graph.input, *graph.output)]
    assert names[2:4] == ["past.00.keys", "past.00.values"]
    assert names[-2:] == ["present.00.keys", "present.00.values"]


def test_step_that_is_not_the_parallel_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="step is not what the parallel form is: they differ by"):
        causalrn.export_recurrent(broken.position_not_carried(), output=tmp_path / "bundle", vocabulary=V)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.cases(0)
def test_prefill_for_one_number_of_tokens_is_left_out_with_a_note(tmp_path: Path) -> None:
    class Pads(GrowingModel):
        def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
            return super().prefill(tokens[:, : int(tokens.shape[1])], state, position)

    with pytest.warns(FallbackWarning, match="traced for one number of tokens only.*exported without it"):
        bundle = causalrn.export_recurrent(made(Pads), output=tmp_path / "bundle").bundle
    assert set(bundle.manifest.graphs) == {"step"}
    with causalrn.open_session(bundle) as session:
        assert session.prefill([[1, 2, 3]]).shape == (1, 3, V)


def test_prefill_that_forgets_its_state_is_refused(tmp_path: Path) -> None:
    class Forgets(GrowingModel):
        def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
            fresh = tokens.shape[1] > 1 and state["keys"].shape[2] > 0
            logits, after = super().prefill(tokens, self.initial_state(len(tokens)) if fresh else state, position)
            return logits, {name: torch.cat([state[name], after[name]], 2) for name in after} if fresh else after

    with pytest.raises(InputError, match="a prefill onto the state after 20 tokens gives other logits than steps"):
        causalrn.export_recurrent(made(Forgets), output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


class CountingModel(StartingModel):
    """A counter without axes, which all rows share; parameters that are called as inputs and outputs of graphs are."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.logits = nn.Parameter(torch.randn(E)), nn.Parameter(torch.randn(V))

    def forward(self, tokens: Tensor) -> Tensor:
        sums = self.start + self.position + self.embedding(tokens).cumsum(1)
        counts = torch.arange(8, 8 + tokens.shape[1])[None, :, None]
        logits: Tensor = self.head(torch.tanh(sums / counts)) + self.logits
        return logits

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        total, count = state["sum"] + self.embedding(tokens), state["count"]
        logits = self.head(torch.tanh((total + self.position) / count)) + self.logits
        return logits, {"sum": total, "count": count + 1}

    def initial_state(self, batch: int) -> Any:
        return {"sum": self.start.detach().expand(batch, -1).clone(), "count": torch.tensor(8)}


@pytest.mark.cases(0)
def test_counters_without_axes_and_names_of_graphs_are_no_trouble(tmp_path: Path) -> None:
    model = made(CountingModel)
    bundle = causalrn.export_recurrent(model, vocabulary=V, output=tmp_path / "bundle")
    assert causalrn.verify(bundle, level=["logits", "state", "split", "calls"]).passed
    with causalrn.open_session(bundle) as session:
        session.reset(2)
        session.prefill(TOKENS[:2, :5])
        kept = session.snapshot()
        assert kept.tensors["00.count"].shape == ()
        expected = session.step([1, 2])
        session.restore(kept)
        assert np.array_equal(session.step([1, 2]), expected)


@pytest.mark.cases(0)
def test_two_caches_of_the_same_rows_stay_whole(tmp_path: Path) -> None:
    class Twice(TimeMajorModel):
        def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
            logits, after = super().prefill(tokens, state, position)
            rows = after["keys"][state["keys"].shape[0] :]
            return logits, after | {name: torch.cat([state[name], rows], 0) for name in ("first", "second")}

        def initial_state(self, batch: int) -> Any:
            state = super().initial_state(batch)
            return state | {name: state["keys"].clone() for name in ("first", "second")}

    bundle = causalrn.export_recurrent(made(Twice), output=tmp_path / "bundle")
    assert causalrn.verify(bundle, level=["logits", "state", "split"]).passed


def test_window_that_ends_growth_is_refused(tmp_path: Path) -> None:
    class Window(GrowingModel):
        def prefill(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:
            logits, after = super().prefill(tokens, state, position)
            return logits, {name: value[:, :, -30:] for name, value in after.items()}

    model = made(Window)
    with pytest.raises(InputError, match=r"00\.keys has no more than 30 rows"):
        causalrn.export_recurrent(
            {"step": model.step, "initial_state": model.initial_state, "vocabulary": V, "capacity": 40},
            output=tmp_path / "bundle",
        )


def test_parallel_form_that_is_wrong_by_itself_is_told(tmp_path: Path) -> None:
    class LooksAhead(StartingModel):
        def forward(self, tokens: Tensor) -> Tensor:
            ahead: Tensor = self.head(self.embedding(tokens).mean(1, keepdim=True))
            return super().forward(tokens) + ahead

    with pytest.warns(FallbackWarning, match="golden vectors are the step's"):
        causalrn.export_recurrent(made(LooksAhead), vocabulary=V, output=tmp_path / "bundle")


def test_step_alone_is_exported_without_a_parallel_form(tmp_path: Path) -> None:
    model = made(StartingModel)
    bundle = causalrn.export_recurrent(
        step=model.step, initial_state=model.initial_state, vocabulary=V, output=tmp_path / "bundle"
    )
    assert causalrn.verify(bundle, level=["logits"]).passed


@pytest.mark.parametrize("opset", [17, 24])
def test_opset_that_is_not_supported_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of 18"):
        causalrn.export_recurrent(made(GrowingModel), output=tmp_path / "bundle", opset=opset)
    assert not (tmp_path / "bundle").exists()


def test_state_that_begins_with_rows_is_refused(tmp_path: Path) -> None:
    class Begins(GrowingModel):
        def initial_state(self, batch: int) -> Any:
            return {name: value.new_zeros(batch, 2, 2, E // 2) for name, value in super().initial_state(batch).items()}

    model = made(Begins)
    with pytest.raises(InputError, match="begins with 2 rows"):
        causalrn.export_recurrent(
            step=model.step, initial_state=model.initial_state, vocabulary=V, output=tmp_path / "bundle"
        )


def test_python_branch_on_values_is_one_clear_line(tmp_path: Path) -> None:
    class Branches(StartingModel):
        def step(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            if state[1].sum() > 1_000_000:
                return self.head(state[0]), state
            return super().step(tokens, state)

    with pytest.raises(InputError, match="`step` cannot be traced by torch") as raised:
        causalrn.export_recurrent(made(Branches), vocabulary=V, output=tmp_path / "bundle")
    assert str(raised.value).isprintable()  # in one line, and without a terminal's colours
    assert not (tmp_path / "bundle").exists()
