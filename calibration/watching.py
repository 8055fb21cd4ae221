"""A float32 bundle opened so that what its products multiply can be watched, by the same names in all graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.graph_files import load_graphs, save_graphs
from causalrn.calibration.products import split_products
from causalrn.runtimes.ort_session import OnnxRuntimeSession


@contextlib.contextmanager
def opened_for_watching(bundle: Bundle) -> Iterator[tuple[OnnxRuntimeSession, list[str]]]:
    """A session over a copy of the bundle whose products are split as a scheme splits them, and the names to watch."""
    graphs = load_graphs(bundle)
    products = {product.input: None for model in graphs.values() for product in split_products(model)}
    with temporary_folder() as folder:
        save_graphs(graphs, folder, checked=False)
        copy = seal_bundle(folder, bundle.manifest)
        with OnnxRuntimeSession(copy) as session:
            yield session, list(products)
