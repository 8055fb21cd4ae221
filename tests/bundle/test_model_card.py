"""Model cards: every bundle has one whose snippets run, whatever a manifest says; bundles of before open without."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.json_values import json_text
from causalrn.bundle.known_by import KnownBy
from causalrn.bundle.model_card import MODEL_CARD, model_card
from causalrn.workflows.export import export
from tests.builders import ROOT

Call = Callable[..., tuple[int, str, str]]


def snippet(folder: Path, language: str, number: int = 0) -> str:
    text = (folder / MODEL_CARD).read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found[number]


def run_in(folder: Path, *command: object) -> str:
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_card_says_what_the_manifest_says(exact_bundle: Path) -> None:
    bundle = Bundle.open(exact_bundle)
    text = (exact_bundle / MODEL_CARD).read_text(encoding="utf-8")
    assert text == model_card(bundle.manifest), "it follows from the manifest, hashes or not"
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["tags"] == ["causalrn", "onnx", "exact"]
    assert "copy, length 19" in body
    assert bundle.manifest.checkpoint_sha256 in body
    assert f"> {bundle.manifest.known_by.describe()}" in body if bundle.manifest.known_by else "assumed" in body


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_snippets_of_onnx_bundles_run(bundles: dict[str, Path], call: Call, readout: str) -> None:
    folder = bundles[readout]
    generated = run_in(folder, sys.executable, "-c", snippet(folder, "python"))
    last = snippet(folder, "sh").splitlines()[-1].removeprefix("causalrn-export ").replace(" . ", f" {folder} ")
    assert call(*last.split())[1].strip() == generated.strip()
    script = snippet(folder, "python", 1) + "print(logits.shape, len(rows))"
    assert run_in(folder, sys.executable, "-c", script).strip().startswith("(1, 1, 29) ")


def test_snippets_of_c_bundles_compile_and_run(c_bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(c_bundles["exact"], folder)
    (tmp_path / "main.c").write_text(snippet(folder, "c"))
    flags = ("-std=c99", "-O0", "-DCAUSALRN_NO_VECTORS", "-I", folder)
    run_in(tmp_path, "gcc", *flags, "main.c", folder / "causalrn.c", "-lm", "-o", "main")
    assert run_in(folder, tmp_path / "main").strip() == "ok"


@pytest.mark.cases(0)
def test_snippets_of_web_bundles_run(web_bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "site"
    shutil.copytree(web_bundles["exact"], folder)
    (folder / "main.mjs").write_text(snippet(folder, "js"))
    assert run_in(folder, shutil.which("node"), "main.mjs").strip()


@pytest.mark.cases(0)
def test_inline_weights_and_prefixes_reach_the_snippet(runs: dict[str, Path], tmp_path: Path) -> None:
    made = export(runs["linear"], output=tmp_path / "c", target="c", weights="inline", prefix="copier")
    text = snippet(made.bundle.path, "c")
    assert '#include "copier_weights.h"' in text
    assert "copier_use(&weights, copier_payload)" in text
    assert "causalrn" not in text.lower()


def test_words_of_a_manifest_are_no_markup(exact_bundle: Path) -> None:
    manifest = Bundle.open(exact_bundle).manifest
    note = "one\n## Two\n<script>alert(1)</script> [x](http://y) | `z`"
    text = model_card(dataclasses.replace(manifest, known_by=KnownBy("assumed", note=note)))
    (line,) = [line for line in text.splitlines() if line.startswith("> ")]
    assert "\\<script\\>" in line
    assert "\\[x\\]" in line
    assert "\n## Two" not in text


def test_a_card_is_hashed_replaced_and_missed(
    exact_bundle: Path, runs: dict[str, Path], call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exact_bundle, folder)
    assert MODEL_CARD in Bundle.open(folder).manifest.files
    assert call("export", runs["exact"], "-o", folder)[0] == 0, "one that nobody changed is replaced"
    with (folder / MODEL_CARD).open("a") as card:
        card.write("mine\n")
    code, _, error = call("export", runs["exact"], "-o", folder)
    assert code == 2
    assert f"{MODEL_CARD}, changed" in error
    code, _, error = call("run", folder, "--prompt", "abc")
    assert code == 2
    assert MODEL_CARD in error


def test_bundles_of_before_have_none_and_open(exact_bundle: Path, call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exact_bundle, folder)
    (folder / MODEL_CARD).unlink()
    manifest = Bundle.open(exact_bundle).manifest
    files = {name: entry for name, entry in manifest.files.items() if name != MODEL_CARD}
    (folder / "manifest.json").write_text(json_text(dataclasses.replace(manifest, files=files).entries()))
    assert MODEL_CARD not in Bundle.open(folder).manifest.files
    assert call("run", folder, "--prompt", "abc", "--max-new-tokens", 2)[0] == 0
    assert call("verify", folder, "--level", "logits")[0] == 0


def test_line_ends_of_a_card_do_not_matter(exact_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exact_bundle, folder)
    card = folder / MODEL_CARD
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    assert Bundle.open(folder).sha256 == Bundle.open(exact_bundle).sha256


def test_a_linked_card_of_another_bundle_stays(exact_bundle: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "bundle", tmp_path / "other"
    shutil.copytree(exact_bundle, other)
    shutil.copytree(exact_bundle, folder)
    (folder / MODEL_CARD).unlink()
    (folder / MODEL_CARD).hardlink_to(other / MODEL_CARD)
    manifest = Bundle.open(other).manifest
    seal_bundle(folder, dataclasses.replace(manifest, known_by=KnownBy("assumed")))
    Bundle.open(other)
    assert "> assumed" in (folder / MODEL_CARD).read_text()


def test_a_certificate_brings_its_figures(exact_bundle: Path, call: Call, tmp_path: Path) -> None:
    folder, card = tmp_path / "bundle", tmp_path / "README.md"
    shutil.copytree(exact_bundle, folder)
    assert call("inspect", folder, "--card", card)[0] == 0
    assert card.read_text() == (folder / MODEL_CARD).read_text()
    assert call("verify", folder, "--level", "logits", "--certificate", folder / "certificate.json")[0] == 0
    code, out, _ = call("inspect", folder, "--card", card)
    assert code == 0
    assert f"wrote {card}" in out
    results = json.loads((folder / "certificate.json").read_text())["report"]["results"]
    for result in results:
        assert f"| logits | {result['form']} | {result['error']:.1e} |" in card.read_text()
    code, _, error = call("inspect", tmp_path, "--card", card)
    assert code == 2
    assert "is no bundle: --card is about one" in error
