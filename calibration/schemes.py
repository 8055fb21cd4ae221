"""Quantization schemes: from a float32 bundle to a quantized one that verifies and runs like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.files import WEIGHTS_FILE
from causalrn.bundle.graph_files import describe_graph, load_graphs, save_graphs, strip_leftovers
from causalrn.bundle.manifest import Manifest
from causalrn.bundle.quantization import FORMS, NARROW_POOLS, SCHEMES, WEIGHT_ONLY, Quantization, pool_name
from causalrn.bundle.state_spec import StateSpec
from causalrn.calibration.activations import quantize_activations_dynamically, quantize_activations_statically
from causalrn.calibration.block_weights import quantize_to_int4, quantize_to_nbits
from causalrn.calibration.float16_weights import convert_to_float16
from causalrn.calibration.int8_weights import quantize_to_int8
from causalrn.calibration.pool_rows import narrow_pools
from causalrn.calibration.products import find_products, find_tables, split_products
from causalrn.errors import CalibrationError, InputError
from causalrn.model.state import derive_state
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.parity.golden import GOLDEN_NAME, load_golden, save_golden
from causalrn.training.card import card_of

_BITS = {"w8": 8, "w4": 4}
_CONTRIB = {"nbits"}
"""Forms whose graphs have operators of onnxruntime's own."""

POOLS = "pools"
"""The part that stands for the rows of all pools."""


@dataclass(frozen=True)
class Scheme:
    """What to quantize, and how.

    Attributes:
        name: one of :data:`causalrn.bundle.quantization.SCHEMES`; "float32" leaves the weights alone (with `pool`).
        form: of w8 and w4: "nbits" (onnxruntime's MatMulNBits) or "qdq" (DequantizeLinear, portable).
        pool: element type of pool rows that is asked for, one of :data:`causalrn.bundle.quantization.NARROW_POOLS`;
            "float32" leaves them as the scheme has them.
        keep: names of parts that stay float32, of those that :func:`quantizable_parts` lists.
        limits: of w8a8: by the name of what is multiplied, the largest |value| that int8 has to hold.

    Raises:
        InputError: an unknown name, or a combination without meaning.
    """

    name: str
    form: str | None = None
    pool: str = "float32"
    keep: frozenset[str] = frozenset()
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in (*SCHEMES, "float32"):
            raise InputError(f"scheme {self.name!r} is unknown: choose one of {', '.join(SCHEMES)}")
        if self.form is not None and self.name not in WEIGHT_ONLY:
            raise InputError(f"form is for {' and '.join(WEIGHT_ONLY)}: leave it out, {self.name} has one only")
        if self.name in WEIGHT_ONLY and self.form not in FORMS:
            raise InputError(f"form {self.form!r} is unknown: choose one of {', '.join(FORMS)}")
        if self.pool not in ("float32", *NARROW_POOLS.values()):
            raise InputError(f"pool rows of {self.pool!r} are unknown: choose {' or '.join(NARROW_POOLS.values())}")
        if self.name == "float32" and self.pool == "float32":
            raise InputError(f"nothing to quantize: choose a scheme, {' or '.join(NARROW_POOLS)}")
        if self.name == "fp16" and self.pool == "float16":
            raise InputError("fp16 has float16 pools by itself: leave pool16 out")

    @property
    def pool_dtype(self) -> str:
        """Element type of pools: fp16 keeps them in float16, for its products give no more than that."""
        if POOLS in self.keep:
            return "float32"
        return "float16" if self.name == "fp16" and self.pool == "float32" else self.pool

    @property
    def label(self) -> str:
        """What it is called in errors: the scheme, or what pools alone are."""
        return pool_name(self.pool) if self.name == "float32" else self.name

    @property
    def least_opset(self) -> int:
        """The first opset that has what it needs: int4 and scales per block, or axes of a maximum as an input."""
        if (self.name, self.form) == ("w4", "qdq"):
            return 21
        return 18 if self.pool == "int8" else 0

    @property
    def portable(self) -> bool:
        """Whether the graphs are meant for other runtimes than onnxruntime, too."""
        return self.form == "qdq" or self.name in ("w8a8", "fp16")


def quantize_graph(model: ir.Model, scheme: Scheme, spec: StateSpec) -> ir.Model:
    """Quantize a float32 graph.

    Args:
        model: may be changed in place.
        spec: the state of the quantized graph.

    Raises:
        CalibrationError: w8a8, and no limit is known for something that is multiplied.
    """
    if _narrows_pools(spec, scheme):
        narrow_pools(model, spec, portable=scheme.portable)
    if scheme.name != "float32":
        model = _quantize_products(model, scheme)
    return model


def _narrows_pools(spec: StateSpec, scheme: Scheme) -> bool:
    """Whether pools change; a state that users bring stays as it is."""
    return spec.has_pool and not spec.is_own and scheme.pool_dtype != "float32"


def _quantize_products(model: ir.Model, scheme: Scheme) -> ir.Model:
    products = split_products(model, scheme.keep)
    if scheme.name == "fp16":
        convert_to_float16(model, products, set(find_tables(model)) - scheme.keep)
        return model
    if not products:
        return model
    if scheme.name == "w8a8-dynamic":
        return quantize_activations_dynamically(model, products)
    if scheme.name == "w8a8":
        missing = sorted({product.input for product in products} - scheme.limits.keys())
        if missing:
            raise CalibrationError(f"no calibration of {missing[0]}: calibrate with this bundle")
        return quantize_activations_statically(model, products, scheme.limits)
    if scheme.form == "nbits":
        return quantize_to_nbits(model, products, _BITS[scheme.name])
    if scheme.name == "w4":
        return quantize_to_int4(model, products)
    quantize_to_int8(model, products)
    return model


def quantizable_parts(bundle: Bundle, scheme: Scheme) -> list[str]:
    """Names of what a scheme changes, in the order of use: tables (fp16 only), weights, and :data:`POOLS`."""
    graph = next(iter(bundle.manifest.graphs.values()))
    model = ir.load(bundle.file(graph.file))
    parts = find_tables(model) if scheme.name == "fp16" else []
    parts += [product.weight for product in find_products(model)] if scheme.name != "float32" else []
    narrows = _narrows_pools(bundle.manifest.state, dataclasses.replace(scheme, keep=frozenset()))
    return [*parts, POOLS] if narrows else parts


def check_scheme_fits(bundle: Bundle, scheme: Scheme) -> None:
    """Refuse what cannot be quantized.

    Raises:
        InputError: another target than ONNX, a bundle that is quantized already, or no pool where one is wanted.
    """
    if bundle.manifest.target != "onnx":
        raise InputError(f"{bundle.path}: a bundle for {bundle.manifest.target}: quantize takes ONNX bundles")
    if bundle.manifest.quantization is not None:
        how = bundle.manifest.quantization.describe()
        raise InputError(f"{bundle.path} is quantized already ({how}): quantize the float32 bundle")
    if bundle.manifest.is_ort_format:
        raise InputError(f"{bundle.path}: graphs in onnxruntime's own format cannot be changed: quantize before that")
    state = bundle.manifest.state
    if scheme.pool != "float32" and (not state.has_pool or state.is_own):
        what = "is the model's own" if state.is_own else "has constant size and no pool"
        raise InputError(f"{bundle.path}: its state {what}: leave {pool_name(scheme.pool)} out")
    if scheme.pool != "float32" and state.gives_fixed_pools:
        raise InputError(
            f"{bundle.path}: its graphs give whole pools, in float32: export without `present`, or leave "
            f"{pool_name(scheme.pool)} out"
        )
    opset = bundle.manifest.opset or 0
    if opset < scheme.least_opset:
        raise InputError(
            f"{bundle.path} has opset {opset}, which is too early: export with `opset` {scheme.least_opset}"
        )
    parts = quantizable_parts(bundle, scheme)
    if not parts:
        raise InputError(
            f"{bundle.path}: no product with a constant matrix was found: {scheme.label} would change nothing"
        )
    if scheme.keep and not set(parts) - scheme.keep:
        raise InputError(f"all {len(parts)} parts of {bundle.path} would stay float32: keep fewer")


def write_quantized(
    source: Bundle,
    folder: Path,
    scheme: Scheme,
    calibration: Mapping[str, Any] | None = None,
    *,
    golden: bool = True,
) -> Bundle:
    """Write a quantized bundle into an existing folder.

    Args:
        source: in float32; only read.
        calibration: what the limits of `scheme` rest on, for the manifest.
        golden: take the source's golden vectors along, and record the quantized graphs' own outputs.

    Raises:
        InputError, CalibrationError: as :func:`check_scheme_fits` and :func:`quantize_graph`.
    """
    check_scheme_fits(source, scheme)
    manifest = _quantized_manifest(source, scheme, calibration)
    models = {file: quantize_graph(model, scheme, manifest.state) for file, model in load_graphs(source).items()}
    for name, graph in manifest.graphs.items():
        strip_leftovers(models[graph.file])
        describe_graph(models[graph.file], manifest, name)
    single_file = WEIGHTS_FILE not in source.manifest.files
    save_graphs(models, folder, checked=scheme.form not in _CONTRIB, single_file=single_file)
    bundle = seal_bundle(folder, manifest)
    if golden and GOLDEN_NAME in source.manifest.files:
        with open_bundle(bundle) as session:
            known = load_golden(source)
            save_golden(folder, known.reference, session, known.late)
        unchanged = {name: entry for name, entry in bundle.manifest.files.items() if name != GOLDEN_NAME}
        bundle = seal_bundle(folder, manifest, unchanged)
    return bundle


def _quantized_manifest(source: Bundle, scheme: Scheme, calibration: Mapping[str, Any] | None) -> Manifest:
    """The manifest of the quantized bundle, its files not hashed yet."""
    before = source.manifest
    pool = before.state.pool if before.state.has_pool else "growing"
    spec = before.state
    if not spec.is_own:
        config, capacity, present = card_of(source).block_config, spec.capacity, spec.gives_fixed_pools
        spec = derive_state(config, pool, capacity, scheme.pool_dtype, present=present)
    kept, asked = tuple(sorted(scheme.keep)), "float32" if POOLS in scheme.keep else scheme.pool
    return dataclasses.replace(
        before,
        state=spec,
        quantization=Quantization.of(scheme.name, scheme.form, asked, kept, source.sha256, calibration),
        created_with={**before.created_with, "onnxruntime": version("onnxruntime")},
    )
