"""Every method learns, in a loop of one's own: on noisy features, and its generator on glyphs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.data.glyphs import GREEK, render
from embedding_expansion.generation import METHODS
from embedding_expansion.generation.method import Method, backward
from embedding_expansion.generation.triplets import triplets_for
from embedding_expansion.methods import METHODS as TAKES
from embedding_expansion.model.backbones import conv4

from .conftest import SHORT

WIDTH, HIDDEN, DIM = 32, 128, 16
STEPS = {"memvir": 150}  # of those that learn more slowly
#: A longer first phase, and a window whose weights leave the real triplets a part.
LEARNT: dict[str, dict[str, Any]] = {"daml": {"plain_steps": 50}, "hdml": {"balance": 1e3, "window": 10}}
#: What makes the reconstruction the larger part of an objective, for features as small as these.
RECONSTRUCTED: dict[str, dict[str, Any]] = {"daml": {"plain_steps": 0}, "hdml": {"softmax": 1.0}, "dvml": {}}
#: What leaves the own term of a method out.
OFF: dict[str, dict[str, Any]] = {
    "daml": {"plain_steps": 10**6},
    "hdml": {"balance": 0.0},
    "dvml": {"weight": 0.0},
    "symmetrical": {"reflect": False},
    "proxy_synthesis": {"ratio": 0.0},
    "das": {"copies": 0},
    "iaa": {"copies": 0},
    "metrix": {"weight": 0.0},
    "memvir": {"virtual": 0},
}


def samples() -> tuple[Tensor, Tensor]:
    """50 features of 5 classes, told apart by 4 of 32 channels; the others are louder."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(50) % 5
    rows = 0.8 * torch.randn(50, WIDTH, generator=draw)
    rows[:, :4] = 2.0 * torch.randn(5, 4, generator=draw)[labels] + 0.2 * torch.randn(50, 4, generator=draw)
    return rows, labels


def recall_at_1(rows: Tensor, labels: Tensor, normalized: bool = True) -> float:
    """By distance, of L2-normalised rows or of rows as they are, which HDML trains."""
    rows = functional.normalize(rows.detach(), dim=1) if normalized else rows.detach()
    nearest = torch.cdist(rows, rows).fill_diagonal_(torch.inf).argmin(dim=1)
    return float((labels[nearest] == labels).float().mean())


def make(name: str, head: nn.Linear, classes: int, batch: int, **options: Any) -> Method:
    takes = TAKES[name]
    loss_name, given = str(takes.paper["name"]), {key: each for key, each in takes.paper.items() if key != "name"}
    if loss_name in PROXY_LOSSES:
        loss: Any = PROXY_LOSSES[loss_name](classes, head.out_features, **given)
    else:
        loss = LOSSES[loss_name](normalize=loss_name not in takes.unnormalized, **given)
    sizes = {"loss": loss, "head": head, "width": head.in_features, "embedding_size": head.out_features}
    sizes |= {"num_classes": classes, "batch_size": batch}
    known = inspect.signature(METHODS[name]).parameters
    return METHODS[name](**{key: each for key, each in sizes.items() if key in known}, **options)


def train(name: str, steps: int, **options: Any) -> tuple[nn.Module, nn.Linear, Method]:
    """A small network, trained on whole batches of the samples."""
    rows, labels = samples()
    torch.manual_seed(0)
    trunk, head = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU()), nn.Linear(HIDDEN, DIM)
    method = make(name, head, 5, len(rows), **options)
    own: list[dict[str, Any]] = [
        {"params": part.parameters(), "lr": 0.1 if key == "loss" else 1e-2} for key, part in method.named_children()
    ]
    optimizer = torch.optim.Adam([{"params": [*trunk.parameters(), *head.parameters()]}, *own], lr=1e-2)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    network = nn.ModuleList([trunk, head])
    for step in range(steps):
        torch.manual_seed(step)
        features = trunk(rows)
        objectives = method.step(features, head(features), labels)
        optimizer.zero_grad()
        backward(method, objectives, network)
        optimizer.step()
        decay.step()
    return trunk, head, method


def test_fifty_images_are_learnt_by_heart(name: str) -> None:
    rows, labels = samples()
    assert recall_at_1(rows, labels) < 1.0
    trunk, head, method = train(name, STEPS.get(name, 100), **SHORT.get(name, {}) | LEARNT.get(name, {}))
    assert recall_at_1(head(trunk(rows)), labels, method.loss.normalize or name == "symmetrical") == 1.0


@pytest.mark.parametrize("name", sorted(OFF))
def test_the_own_term_of_a_method_changes_the_weights(name: str) -> None:
    _, on, _ = train(name, 4, **SHORT.get(name, {}))
    given = SHORT.get(name, {}) | OFF[name]
    _, off, _ = train(name, 4, **given)
    assert not torch.equal(on.weight, off.weight)


@pytest.fixture(scope="module")
def glyphs() -> tuple[Tensor, Tensor]:
    """The features of 8 images of each of 24 characters, by an untrained network."""
    pixels = torch.from_numpy(render(GREEK[:24], 8, seed=0)).reshape(-1, 1, 32, 32) / 255
    torch.manual_seed(0)
    trunk = conv4(1, 16)
    with torch.no_grad():
        features = trunk(pixels - pixels.mean()).mean(dim=(2, 3))
    return features, torch.arange(24).repeat_interleave(8)


@pytest.mark.parametrize("name", sorted(RECONSTRUCTED))
def test_generators_reconstruct_glyphs_better_than_the_mean_feature(name: str, glyphs: tuple[Tensor, Tensor]) -> None:
    features, labels = glyphs
    torch.manual_seed(0)
    head = nn.Linear(features.shape[1], DIM)
    method = make(name, head, int(labels.max()) + 1, 64, hidden=64, **RECONSTRUCTED[name])
    own = [{"params": part.parameters(), "lr": 3e-3} for part in method.children()]
    optimizer = torch.optim.Adam([{"params": head.parameters(), "lr": 1e-4}, *own])
    order = torch.argsort(labels, stable=True).view(-1, 8)
    for step in range(120):
        torch.manual_seed(step)
        rows = order[torch.randperm(len(order))[:8]].flatten()
        objectives = method.step(features[rows], head(features[rows]), labels[rows])
        optimizer.zero_grad()
        backward(method, objectives, head)
        optimizer.step()
    method.eval()
    found, original = reconstructed(method, head, features, labels)
    error, of_mean = (float((each - original).square().sum(dim=1).mean()) for each in (found, features.mean(dim=0)))
    assert error < of_mean


@torch.no_grad()
def reconstructed(method: Method, head: nn.Linear, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the generator makes of all features, and what it should be: for DAML, the negative of a triplet."""
    generator = method.get_submodule("decoder" if method.name == "dvml" else "generator")
    norm = features.norm(dim=1).mean()
    if method.name == "hdml":
        return generator(head(features)), features
    if method.name == "dvml":
        mean = method.get_submodule("variation")(features / norm)[:, :DIM]
        return norm * generator(head(features) + mean), features
    chosen = triplets_for(method.loss, labels)
    a, p, n = (features[each] for each in (chosen.anchor, chosen.positive, chosen.negative[:, 0]))
    return norm * generator(torch.cat([a, p, n], dim=1) / norm), n
