"""Training in float64 with SGD, for tests of what must come out equal.

Adam divides a gradient by its size, and so makes whole steps of the rounding of a gradient that is next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.job import Job, prepare
from embedding_expansion.training.loop import _optimize
from embedding_expansion.training.ranks import Ranks


def trained(config: TrainConfig, ranks: Ranks | None = None) -> dict[str, Tensor]:
    """The steps of a run: the gradients of every step, and the weights that they lead to."""
    job, ranks = prepare(config), ranks or Ranks()
    job.model.double()
    job.loss.double()
    job.optimizer = torch.optim.SGD([{"params": group["params"]} for group in job.optimizer.param_groups], lr=0.1)
    network, loss = ranks.wrap(job.network, job.loss)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    job.model.train()
    found: dict[str, Tensor] = {}
    for step, inputs, labels in job.batches(0, ranks.share(job.batch_size)):
        is_warmup = step < config.warmup_head
        _optimize(job, network, loss, scaler, ranks, inputs, labels, is_warmup)
        found |= {f"gradient {step} {name}": grad.clone() for name, grad in gradients(job)}
    return found | {f"weight {name}": tensor for name, tensor in state(job)}


def gradients(job: Job) -> Iterator[tuple[str, Tensor]]:
    for part, module in (("model", job.model), ("loss", job.loss)):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                yield f"{part}.{name}", parameter.grad


def state(job: Job) -> Iterator[tuple[str, Tensor]]:
    """Of the model and the loss, with what it learns and remembers."""
    for part, module in (("model", job.model), ("loss", job.loss)):
        for name, tensor in module.state_dict().items():
            yield f"{part}.{name}", tensor


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same to a millionth of the largest entry of each tensor; and there was something to learn."""
    assert any(tensor.any() for name, tensor in expected.items() if name.startswith("gradient"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        apart = (found[name] - tensor).abs().max()
        assert apart <= 1e-6 * tensor.abs().max() + 1e-12, name
