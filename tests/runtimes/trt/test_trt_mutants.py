"""A session that is wrong in one way at a time does not pass `verify`, on the fake GPU."""

from __future__ import annotations

import dataclasses

import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.engine_spec import EngineSpec
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes.parity.report import FAIL, PASS
from causalrn.runtimes.trt.context_call import ContextCall
from causalrn.runtimes.trt.device_state import DeviceState
from causalrn.runtimes.trt.host_exchange import HostExchange
from causalrn.workflows.verify import verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.runtimes.trt.fake_gpu import fake_compile, pretend_gpu


def wrong_row(patch):
    update = DeviceState.update

    def one_on(self, position, outputs):
        update(self, position + 1 if position < 30 and outputs[0].shape[0] == 1 else position, outputs)

    patch.setattr(DeviceState, "update", one_on)


def rows_of_one_block_missing(patch):
    copy = DeviceState._copy

    def all_but_the_last(self, group, *places):
        copy(self, dataclasses.replace(group, indices=group.indices[:-1]), *places)

    patch.setattr(DeviceState, "_copy", all_but_the_last)


def blocks_swapped(patch):
    outputs = DeviceState.outputs
    patch.setattr(DeviceState, "outputs", lambda self, time: outputs(self, time)[::-1])


def nothing_cleared(patch):
    patch.setattr(DeviceState, "_zero", lambda self, *place: None)


def last_row_missing_in_snapshots(patch):
    copies = DeviceState.copies

    def cut(self, position):
        tensors = copies(self, position)
        for value in tensors.values():
            value[-1:] = 0
        return tensors

    patch.setattr(DeviceState, "copies", cut)


def side_that_never_flips(patch):
    patch.setattr(DeviceState, "update", lambda self, position, outputs: None)


def one_row_too_few(patch):
    choose = EngineSpec.choose
    patch.setattr(EngineSpec, "choose", lambda self, graph, *, rows, **more: choose(self, graph, rows=rows - 1, **more))


def old_tokens_replayed(patch):
    send = HostExchange.send

    def sometimes(self, tokens, position):
        if tokens.size > 1 or position % 3:
            send(self, tokens, position)

    patch.setattr(HostExchange, "send", sometimes)


def off(where):
    """Logits that are off by 1e-4, of those calls that (exchange, batch, time) says."""

    def fault(patch):
        receive = HostExchange.receive

        def scaled(self, batch, time):
            return receive(self, batch, time) * (1 + 1e-4 * where(self, batch, time))

        patch.setattr(HostExchange, "receive", scaled)

    return fault


def off_when_replayed(patch):
    run, replayed = ContextCall.run, [False]

    def noted(self, *, record):
        run(self, record=record)
        replayed[0] = self.replays > 0

    patch.setattr(ContextCall, "run", noted)
    off(lambda exchange, batch, time: replayed[0])(patch)


FAULTS = {
    "wrong row": ("fixed", wrong_row),
    "rows of one block missing": ("fixed", rows_of_one_block_missing),
    "blocks swapped": ("fixed", blocks_swapped),
    "nothing cleared": ("fixed", nothing_cleared),
    "nothing cleared, sums": ("linear", nothing_cleared),
    "last row missing in snapshots": ("fixed", last_row_missing_in_snapshots),
    "one row too few": ("fixed", one_row_too_few),
    "old tokens replayed": ("linear", old_tokens_replayed),
    "blocks swapped, sums": ("linear", blocks_swapped),
    "side that never flips": ("linear", side_that_never_flips),
    "off in prefill": ("linear", off(lambda exchange, batch, time: time > 1)),
    "off in batches": ("fixed", off(lambda exchange, batch, time: batch > 1)),
    "off for one sequence": ("fixed", off(lambda exchange, batch, time: batch == time == 1)),
    "off from step 30 on": ("linear", off(lambda exchange, batch, time: exchange._given[0] >= 30)),
    "off when replayed": ("fixed", off_when_replayed),
}


def verdict(kind, bundles, fixed_bundle, folder, patch, fault=lambda patch: None):
    source = Bundle.open(fixed_bundle if kind == "fixed" else bundles[kind])
    fake_compile(source, folder, patch, Sizes(capacities=(8, 16)) if kind == "fixed" else Sizes())
    pretend_gpu(source, patch)
    fault(patch)
    return verify_with_golden(folder, VerifyOptions(samples=5)).report.verdict


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_does_not_pass(name, bundles, fixed_bundle, tmp_path, monkeypatch):
    kind, fault = FAULTS[name]
    assert verdict(kind, bundles, fixed_bundle, tmp_path / "engine", monkeypatch, fault) == FAIL


@pytest.mark.cases(0)
@pytest.mark.parametrize("kind", ["fixed", "linear"])
def test_what_has_no_fault_passes(kind, bundles, fixed_bundle, tmp_path, monkeypatch):
    assert verdict(kind, bundles, fixed_bundle, tmp_path / "engine", monkeypatch) == PASS
