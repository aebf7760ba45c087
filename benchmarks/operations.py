"""Count the operations that a loss dispatches, forward and backward, beside the incumbent's.

    python benchmarks/operations.py --out operations.json

At b = 128 and on a GPU a step costs what its operations cost. Views and `empty` are not counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import harness
from contenders import Incumbent, Ours, Row, choose
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import PROXY_LOSSES
from harness import Batch, Step, table

FITS = 128  # rows for the incumbent, which lists all triplets; its count does not grow with them
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}


class Operations(TorchDispatchMode):
    """Counts the operations dispatched in a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.overloadpacket.__name__ in FREE)
        return func(*args, **(kwargs or {}))


def operations(step: Step) -> int:
    """Return the operations of a step, the second one, which finds what depends on the layout of labels alone."""
    step()
    with Operations() as counted:
        step()
    return counted.count


def of_pair_loss(row: Row, batch: Batch) -> list[object]:
    """Return the counts of the incumbent's loss and of ours, plain and expanded in the torch form."""
    embeddings, labels = batch.make()
    small = Batch(min(batch.b, FITS), batch.k, batch.d).make()
    theirs = operations(Incumbent(row).step(*small)) if row.peer else "-"
    expanded = operations(Ours(row, 2, "torch").step(embeddings, labels)) if row.expandable else "-"
    return [row.name, theirs, operations(Ours(row, None).step(embeddings, labels)), expanded]


def of_proxy_loss(name: str, batch: Batch) -> list[object]:
    """Return the counts of a loss on proxies; the incumbent keeps its proxies in another way and is not compared."""
    embeddings, labels = batch.make()
    loss = PROXY_LOSSES[name](batch.b // batch.k, batch.d)
    losses = [loss] if loss.not_expandable else [loss, EmbeddingExpansion(loss, n=2)]
    inputs = [embeddings, *loss.parameters()]
    counts: list[object] = [
        operations(lambda one=one: torch.autograd.grad(one(embeddings, labels), inputs))  # type: ignore[misc]
        for one in losses
    ]
    return [name, "-", *counts, *["-"] * (2 - len(counts))]


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--losses", nargs="+", help="names of rows or of the registry; default: all")
    options.add_argument("--size", type=int, default=1024, help="rows of the batch")
    options.add_argument("--per-class", type=int, default=4)
    given = options.parse_args()
    if given.quick:
        given.size = 32
        given.losses = given.losses or ["contrastive", "multi_similarity"]
    torch.set_num_threads(given.threads)
    batch = Batch(given.size, given.per_class, 512)
    rows = choose(given.losses)[0]
    lines = [of_pair_loss(row, batch) for row in rows]
    if given.losses is None:
        lines += [of_proxy_loss(name, batch) for name in PROXY_LOSSES]
    names = ["loss", "incumbent", "plain", "expanded"]
    report = {
        "what": f"operations, forward + backward, of {given.size} rows, {given.per_class} of each class",
        "machine": harness.machine(given.threads),
        "counts": [dict(zip(names, line, strict=True)) for line in lines],
    }
    harness.write(given.out, report)
    print(table(names, lines))


if __name__ == "__main__":
    main()
