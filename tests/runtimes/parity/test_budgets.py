"""What judges quantized forms beside rounding: distributions, scale and offset of all logits, each with its limit."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.bundle.tolerances import BUDGETS, Budget
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.runtimes.parity.budgets import JudgedFigure, describe_judged, judge_agreement, judge_repeats
from causalrn.runtimes.parity.comparison import Agreement, compare_runs
from causalrn.runtimes.parity.figures import Figures
from causalrn.runtimes.parity.logit_fit import LEAST_POSITIONS, FitSums, fit_logits
from causalrn.runtimes.parity.results import LevelResult
from causalrn.workflows.verify import verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.runtimes.parity.test_quantized_forms import LOOSE, change_output

LOGITS = np.random.default_rng(0).normal(0, 3, (2, LEAST_POSITIONS, 7))
LARGEST = np.abs(LOGITS).max()


def test_fit_finds_the_line_of_every_run():
    fit = fit_logits([(LOGITS, LOGITS), (1.03 * LOGITS + 0.02, LOGITS)])
    assert fit.scale == pytest.approx(1.03)
    assert fit.offset == pytest.approx(0.02 / LARGEST)
    fit = fit_logits([(0.9 * LOGITS, LOGITS), (1.03 * LOGITS, LOGITS)])
    assert fit.scale == pytest.approx(0.9)


def test_runs_in_parts_and_short_runs_are_fitted_together():
    noisy = LOGITS + np.random.default_rng(1).normal(0, 0.3, LOGITS.shape)
    whole = FitSums.of(noisy, LOGITS).fit()
    parts = [(noisy[:, t : t + 1], LOGITS[:, t : t + 1]) for t in range(LEAST_POSITIONS)]
    together = fit_logits(parts)
    assert together.scale == pytest.approx(whole.scale)
    assert together.offset == pytest.approx(whole.offset)
    sums = FitSums()
    for output, expected in parts:
        sums += FitSums.of(output, expected)
    assert sums.fit() == together


def test_nan_and_logits_that_are_all_equal():
    broken = LOGITS.copy()
    broken[1, 5, 2] = np.nan
    fit = fit_logits([(LOGITS, LOGITS), (broken, LOGITS)])
    assert np.isnan(fit.scale)
    assert np.isnan(fit.offset)
    judged = judge_agreement(compare_runs([(broken, LOGITS)]), Budget(), is_sample=False)
    assert not any(figure.passed for figure in judged)
    equal = np.full_like(LOGITS, 2.0)
    fit = fit_logits([(equal + 1, equal)])
    assert (fit.scale, fit.offset) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("changed", "positions", "passed"), [(1, 8, True), (3, 8, False), (4, 54, True), (9, 54, False)]
)
def test_few_positions_may_exceed_a_budget_as_chance_has_it(changed, positions, passed):
    """A good bundle changes 5 % of all tokens: of 8 positions one is no failure, of a thousand a hundred is."""
    agreement = Agreement(0.0, 1 - changed / positions, changed / positions, 0.0, 1.0, 0.0, positions)
    budget = Budget(argmax_changes=0.05)
    assert judge_agreement(agreement, budget)[1].passed == passed
    assert not judge_agreement(agreement, budget, is_sample=False)[1].passed
    many = dataclasses.replace(agreement, positions=1000 * positions)
    assert not judge_agreement(many, budget)[1].passed


def test_divergence_of_few_positions_may_exceed_a_budget_as_chance_has_it():
    for positions, passed in ((8, True), (400, False), (None, False)):
        agreement = Agreement(0.019, 1.0, 0.0, 0.0, 1.0, 0.0, positions)
        assert judge_agreement(agreement, Budget(kl_divergence=0.01))[0].passed == passed


@pytest.mark.parametrize(
    ("name", "value", "most", "words", "passed"),
    [
        ("scale", 1.031, 0.01, "scale 1.031 > 1.01", False),
        ("scale", 0.969, 0.01, "scale 0.969 < 0.99", False),
        ("scale", 1.0, 0.01, "scale 1 (limit 1.01)", True),
        ("scale", None, 0.01, "scale nan (limit 1.01)", False),
        ("offset", -0.02, 0.005, "offset -2.0e-02 < -0.005", False),
        ("KL divergence", 0.001, 0.01, "KL 1.0e-03 (limit 0.01)", True),
        ("KL divergence", float("nan"), 0.01, "KL nan (limit 0.01)", False),
        ("changed", 0.052, 0.02, "5.2% changed > 2%", False),
    ],
)
def test_figures_are_shown_with_their_limits(name, value, most, words, passed):
    figure = JudgedFigure.of(name, value, most)
    assert (figure.describe(), figure.passed) == (words, passed)


def test_words_name_what_failed_or_else_what_came_nearest():
    figures = [JudgedFigure.of("KL divergence", 0.001, 0.01), JudgedFigure.of("scale", 1.005, 0.01)]
    assert describe_judged(figures) == "scale 1.005 (limit 1.01)"
    bad = [JudgedFigure.of("changed", 0.5, 0.02), JudgedFigure.of("KL divergence", 1.0, 0.01)]
    assert describe_judged([*figures, *bad]) == "50% changed > 2%, KL 1.0e+00 > 0.01"


def test_worst_of_several_outputs_is_judged():
    pairs = [(LOGITS, LOGITS), (LOGITS + 0.1 * LARGEST, LOGITS)]
    worst, typical = judge_repeats(pairs, LARGEST, Budget(), 0.05)
    assert worst.value == pytest.approx(0.1)
    assert typical.value == pytest.approx(0.1)
    assert not worst.passed
    assert all(figure.passed for figure in judge_repeats(pairs[:1], LARGEST, Budget(), 0.05))


def test_uniform_three_percent_is_beyond_every_budget_of_eight_bits():
    agreement = compare_runs([(1.03 * LOGITS, LOGITS)])
    for scheme in ("float32", "fp16", "w8", "w8a8", "w8a8-dynamic"):
        assert "scale" in {figure.name for figure in judge_agreement(agreement, BUDGETS[scheme]) if not figure.passed}


@pytest.mark.parametrize("verdict", [None, True])
def test_what_compares_nothing_never_passes(verdict):
    result = LevelResult.from_deviations("layer", "own", (), Figures(), summary="0 streams", verdict=verdict)
    assert not result.passed
    assert "nothing came out" in result.summary


def damaged(source, folder, change):
    """A w8 bundle whose graphs all give other logits; what was recorded is theirs, as if it had been exported so."""
    bundle = write_quantized(source, folder, Scheme("w8", "nbits"))
    models = load_graphs(bundle)
    for graph in bundle.manifest.graphs.values():
        change(models[graph.file])
    save_graphs(models, folder, checked=False)
    return seal_bundle(folder, bundle.manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, None),
        (lambda model: change_output(model, "logits", "Mul", factor=np.float32(1.03)), "scale 1.0"),
        (lambda model: change_output(model, "logits", "Add", term=np.float32(0.1)), "offset "),
    ],
    ids=["good", "logits x 1.03", "logits + 0.1"],
)
def test_scale_and_offset_are_judged_on_a_device(change, words, exact_bundle, tmp_path):
    """Random weights agree less than trained ones: the other limits are out of the way."""
    bundle = damaged(Bundle.open(exact_bundle), tmp_path, change or (lambda model: None))
    limits = LOOSE | {"scale": 0.02, "offset": 0.005}
    report = verify_with_golden(bundle.path, VerifyOptions(level=("logits", "split", "drift"), limits=limits)).report
    rows = {result.level: result for result in report.results if "recorded" not in result.runtime}
    assert list(rows) == ["logits", "split", "drift"]
    for result in rows.values():
        assert result.passed == (words is None), result.summary
        assert words is None or words in result.summary
        assert {"KL divergence", "changed", "scale", "offset"} <= {figure.name for figure in result.figures.judged}


def test_judging_figure_is_shown_with_its_limit_everywhere(call, exact_bundle, tmp_path):
    change = lambda model: change_output(model, "logits", "Mul", factor=np.float32(1.06))  # noqa: E731
    (tmp_path / "b").mkdir()
    bundle = damaged(Bundle.open(exact_bundle), tmp_path / "b", change).path
    pages = tmp_path / "r.html", tmp_path / "r.json"
    code, out, _ = call("verify", bundle, "--level", "logits", "--html", pages[0], "--json", pages[1])
    assert code == 1
    assert re.search(r"scale 1\.06\d* > 1\.01", " ".join(out.split()))
    assert "all logits scaled by" in pages[0].read_text()
    assert '"name": "scale"' in pages[1].read_text()
