"""Training: it learns, repeats itself, and refuses what it should."""

import dataclasses
import functools
import platform
import subprocess
import sys

import pytest
import torch

from causalrn.errors import TrainingError
from causalrn.model.config import TransformerConfig
from causalrn.model.operators.pair_sum import pair_sum
from causalrn.model.sequence_model import SequenceModel
from causalrn.training.loop import PRESETS, Trainer, TrainingSettings, choose_device
from causalrn.training.tasks import CopyTask
from tests.builders import gradients_of
from tests.c_tools import needs_c_compiler

SETTINGS = TrainingSettings(steps=25, batch=15, learning_rate=5e-3, warmup=5)


def _train(settings=SETTINGS):
    torch.manual_seed(0)
    task = CopyTask(3)
    model = SequenceModel(dataclasses.replace(PRESETS["tiny"].model(task), blocks=1))
    trainer = Trainer(model, task, settings)
    return [trainer.step().loss for _ in range(settings.steps)], model


def test_loss_falls_and_a_seed_repeats_it():
    (first, model), (again, twin) = _train(), _train()
    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert first[-1] < 0.8 * first[0]


def test_rate_warms_up_and_decays():
    rates = [SETTINGS.rate_at(step) for step in range(25)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(5e-3)
    assert rates[-1] == pytest.approx(5e-4, rel=0.2)


_MMAPPED = """
import ctypes
from causalrn.training.loop import Trainer, TrainingSettings
from causalrn.training.memory import return_freed_memory
from causalrn.training.tasks import CopyTask
from causalrn.model.config import CausalRNConfig
from causalrn.model.sequence_model import SequenceModel

class Info(ctypes.Structure):  # struct mallinfo of <malloc.h>
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd u f o k c".split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
libc.mallinfo.restype = Info

def is_mapped_anew(mb):
    libc.free(libc.malloc((mb + 2) << 20))  # glibc now keeps such blocks in its heap, unless it was told otherwise
    before = libc.mallinfo().hblks
    block = libc.malloc(mb << 20)
    mapped = libc.mallinfo().hblks > before
    libc.free(block)
    return mapped

Trainer(SequenceModel(CausalRNConfig(29, 8, 8, 1, 10)), CopyTask(4), TrainingSettings(1, 2, 1e-3)).step()
after_step = is_mapped_anew(16)
return_freed_memory()
print(after_step, is_mapped_anew(28))  # more than the heap has left of the other one
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how to hand out memory")
def test_trainer_leaves_the_memory_of_other_code_alone():
    result = subprocess.run([sys.executable, "-c", _MMAPPED], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_loss_that_is_not_finite_stops_training():
    task = CopyTask(3)
    model = SequenceModel(PRESETS["tiny"].model(task))
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    with pytest.raises(TrainingError, match="at step 1: lower the learning rate"):
        Trainer(model, task, SETTINGS).step()


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"seed": -1}, {"accumulate": 17}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(TrainingError):
        dataclasses.replace(SETTINGS, **changes)


def test_unknown_device_is_refused():
    with pytest.raises(TrainingError, match="device 'abacus' cannot be used here"):
        choose_device("abacus")


def test_states_of_a_trainer_are_copies():
    task = CopyTask(3)
    first, second = (Trainer(SequenceModel(PRESETS["tiny"].model(task, blocks=1)), task, SETTINGS) for _ in range(2))
    first.step()
    state = first.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    first.step()
    second.load_state(state)
    second.step()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())


def test_accumulated_gradients_are_those_of_the_whole_batch():
    gradients = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        task = CopyTask(3)
        model = SequenceModel(PRESETS["tiny"].model(task)).double()
        trainer = Trainer(model, task, dataclasses.replace(SETTINGS, accumulate=accumulate, learning_rate=1e-9))
        trainer.step()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"readout": "exact"}, True),
        ({"readout": "linear"}, True),
        ({"kind": TransformerConfig, "attention": "softmax"}, False),  # PyTorch's own attention chooses for itself
        ({"kind": TransformerConfig, "attention": "linear"}, True),
    ],
    ids=str,
)
def test_bfloat16_trains_with_products_in_bfloat16_and_readouts_in_float32(options, reads, monkeypatch):
    seen = set()

    def recorded(original):
        def record(x, *args, **options):
            seen.add(x.dtype)
            return original(x, *args, **options)

        return record

    for name in ("cumsum", "tril"):  # what sums over the past in linear readout and attention
        monkeypatch.setattr(torch.Tensor, name, recorded(getattr(torch.Tensor, name)))
    monkeypatch.setattr("causalrn.model.readouts.parallel.pair_sum", recorded(pair_sum))
    losses = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = SequenceModel(PRESETS["tiny"].model(CopyTask(3), **options, blocks=1))
        trainer = Trainer(model, CopyTask(3), dataclasses.replace(SETTINGS, precision=precision))
        losses.append(trainer.step().loss)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert gradients_of(model).isfinite().all()
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert seen == ({torch.float32} if reads else set())


def test_gradient_that_is_not_finite_spares_the_weights():
    model = SequenceModel(PRESETS["tiny"].model(CopyTask(3), blocks=1))
    model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(TrainingError, match=r"the gradient became .* at step 1: lower the learning rate"):
        Trainer(model, CopyTask(3), SETTINGS).step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_constant_schedule_stays_at_its_peak():
    settings = dataclasses.replace(SETTINGS, schedule="constant")
    assert {settings.rate_at(step) for step in range(4, 25)} == {5e-3}


def test_compiling_pairs_in_tiles_is_refused():
    task, settings = CopyTask(3), dataclasses.replace(SETTINGS, compile=True, kernel="tiles")
    with pytest.raises(TrainingError, match=r"compile and exact\+exp contradict each other"):
        Trainer(SequenceModel(PRESETS["tiny"].model(task)), task, settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler imports what torch has deprecated
@pytest.mark.parametrize("readout", ["linear", pytest.param("exact", marks=needs_c_compiler)])
def test_compiled_model_has_the_same_gradients(monkeypatch, readout):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # all but the C++
    task, gradients = CopyTask(3), []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = SequenceModel(PRESETS["tiny"].model(task, readout=readout, blocks=1))
        trainer = Trainer(model, task, dataclasses.replace(SETTINGS, compile=compiled))
        trainer.step()
        gradients.append(gradients_of(model))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
def test_compiling_without_a_compiler_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nonexistent"))
    task = CopyTask(3)
    model = SequenceModel(PRESETS["tiny"].model(task, readout="linear", blocks=1))
    trainer = Trainer(model, task, dataclasses.replace(SETTINGS, compile=True))
    with pytest.raises(TrainingError, match="install a C\\+\\+ compiler, or leave out `compile`"):
        trainer.step()
