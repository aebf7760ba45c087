"""Which parameters an objective trains, what a schedule does, and what goes wrong with one sentence."""

from __future__ import annotations

import copy
import inspect
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from embedding_expansion.core.losses import PROXY_LOSSES
from embedding_expansion.core.losses.hinge import ContrastiveLoss
from embedding_expansion.core.losses.triplet import TripletLoss
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput, InvalidType
from embedding_expansion.generation import METHODS
from embedding_expansion.generation.daml import DAML
from embedding_expansion.generation.das import DAS
from embedding_expansion.generation.loop import LoOp
from embedding_expansion.generation.memvir import MemVir
from embedding_expansion.generation.method import backward
from embedding_expansion.generation.metrix import Metrix
from embedding_expansion.generation.proxy_synthesis import ProxySynthesis
from embedding_expansion.generation.symmetrical import SymmetricalSynthesis
from embedding_expansion.methods import METHODS as TAKES

from .conftest import CLASSES, DIM, SHORT, Setting, loss_for, setting

#: Objective -> the parts that it trains in the last phase; "network" is the trunk and the head.
TRAINED = {
    "daml": {"metric": {"trunk", "head"}, "generator": {"generator"}},
    "hdml": {"metric": {"trunk", "head"}, "generator": {"generator"}, "classifier": {"classifier"}},
    "dvml": {
        "metric": {"trunk", "head", "variation"},
        "divergence": {"trunk", "variation"},
        "reconstruction": {"trunk", "head", "variation", "decoder"},
    },
    "proxy_synthesis": {"metric": {"trunk", "head", "loss"}},
    "memvir": {"metric": {"trunk", "head", "loss"}},
} | {name: {"metric": {"trunk", "head"}} for name in ("symmetrical", "loop", "das", "iaa", "metrix")}


def parts(made: Setting) -> dict[str, nn.Module]:
    return {"trunk": made.trunk, "head": made.head, **dict(made.method.named_children())}


def trained(made: Setting, names: list[str]) -> set[str]:
    """The parts that the gradient of some objectives of a step reaches, and not with zeros only."""
    torch.manual_seed(3)
    objectives = made.method.step(*made.forward())
    for part in parts(made).values():
        part.zero_grad()
    backward(made.method, {name: objectives[name] for name in names}, made.network)
    return {
        name
        for name, part in parts(made).items()
        if any(each.grad is not None and bool(each.grad.any()) for each in part.parameters())
    }


def last_phase(name: str) -> Setting:
    """A setting after enough steps for the last phase, with generators that do something."""
    made = setting(name, **SHORT.get(name, {}))
    with torch.no_grad():
        for module in made.method.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(5)
    for _ in range(2):
        made.method.step(*made.forward())
    return made


def test_each_objective_trains_what_it_names_and_nothing_else(name: str) -> None:
    for objective, expected in TRAINED[name].items():
        assert trained(last_phase(name), [objective]) == expected, objective


def test_the_adversarial_term_reaches_the_head_and_does_not_train_it() -> None:
    made = last_phase("daml")
    made.method.loss.parameters_of_function["margin"] = -10.0  # so that the hinge is active
    made.method.adversarial = 1e6  # type: ignore[assignment]  # and the rest next to nothing
    value = made.method.step(*made.forward())["generator"].value
    assert torch.autograd.grad(value, [*made.head.parameters()])[0].abs().max() > 1
    assert trained(made, ["generator"]) == {"generator"}


def test_the_first_phases_train_less() -> None:
    assert trained(setting("daml", plain_steps=1), ["metric"]) == {"trunk", "head"}
    assert trained(setting("dvml", first_steps=1), ["reconstruction"]) == {"decoder"}


def test_gradients_add_up_over_objectives(name: str) -> None:
    made, single = last_phase(name), []
    objectives = list(TRAINED[name])
    for chosen in [*([each] for each in objectives), objectives]:
        again = copy.deepcopy(made)
        if hasattr(again.method, "_head"):
            again.method._head = (again.head,)  # type: ignore[assignment]
        trained(again, chosen)
        single.append(
            {
                f"{part}.{key}": each.grad
                for part, module in parts(again).items()
                for key, each in module.named_parameters()
            }
        )
    *alone, together = single
    for key, found in together.items():
        given = [gradient for each in alone if (gradient := each[key]) is not None]
        assert (found is None) == (not given)
        if found is not None:
            torch.testing.assert_close(found, torch.stack(given).sum(dim=0))


def test_the_state_of_a_method_is_its_schedule(name: str) -> None:
    # A method that takes over another's state goes on exactly as that one, whatever phase it is in.
    one, other = (setting(name, seed=seed, **SHORT.get(name, {})) for seed in (0, 1))
    for _ in range(3):
        one.method.step(*one.forward())
    before = copy.deepcopy(one.method.state_dict())
    other.trunk.load_state_dict(one.trunk.state_dict())
    other.head.load_state_dict(one.head.state_dict())
    other.method.load_state_dict(before)
    other.images = one.images
    for _ in range(2):
        values = []
        for made in (one, other):
            torch.manual_seed(9)
            values.append({key: each.value for key, each in made.method.step(*made.forward()).items()})
        assert values[0].keys() == values[1].keys()
        assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])


@pytest.mark.parametrize("loss", sorted({loss for takes in TAKES.values() for loss in takes.losses}))
def test_a_method_takes_the_losses_that_it_names(loss: str) -> None:
    for name, takes in TAKES.items():
        if loss in takes.losses:
            value = setting(name, loss, **SHORT.get(name, {})).method.step(*setting(name).forward())["metric"].value
            assert value.isfinite()


def test_every_method_has_its_line_and_the_loss_of_its_paper() -> None:
    assert METHODS.keys() == TAKES.keys()
    assert all(takes.accepts(str(takes.paper["name"])) for takes in TAKES.values())
    assert not any(TAKES["das"].accepts(loss) for loss in PROXY_LOSSES)


def test_the_page_on_methods_has_every_loss_and_parameter() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    documented = {cells[0].strip("`"): cells[1] for cells in rows if len(cells) == 2}
    of_the_run = {"loss", "head", "width", "num_classes", "embedding_size", "batch_size"}
    for name, method in METHODS.items():
        parameters = inspect.signature(method).parameters.items()
        given = [f"`{key}` {each.default}".lower() for key, each in parameters if key not in of_the_run]
        assert documented[name] == ", ".join(given)
        losses = next(cells[3] for cells in rows if cells[0] == f"`{name}`" and len(cells) == 4)
        wanted = TAKES[name].losses or (str(TAKES[name].paper["name"]),)
        assert losses == "as `proxy_synthesis`" or losses.startswith(", ".join(f"`{loss}`" for loss in wanted))


def test_half_precision_is_widened(name: str) -> None:
    made = setting(name, **SHORT.get(name, {}))
    made.method.float(), made.trunk.float(), made.head.float()
    made.images = made.images.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = made.trunk(made.images)
        objectives = made.method.step(features, made.head(features), made.labels)
    assert features.dtype == torch.bfloat16
    assert all(each.value.dtype == torch.float32 for each in objectives.values())
    backward(made.method, objectives, made.network)


def test_a_batch_of_one_class_or_of_single_images_breaks_nothing(name: str) -> None:
    for labels in (torch.zeros(CLASSES, dtype=torch.int64), torch.arange(CLASSES)):
        made = last_phase(name)
        features = made.trunk(made.images[:CLASSES])
        with warnings.catch_warnings(action="ignore", category=DegenerateBatchWarning):
            objectives = made.method.step(features, made.head(features), labels)
        backward(made.method, objectives, made.network)
        gradients = [each.grad for part in parts(made).values() for each in part.parameters() if each.grad is not None]
        assert all(bool(each.isfinite().all()) for each in gradients)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: DAS(nn.Linear(2, 2), 3, 4), InvalidType, "pass an instance of one of this"),  # type: ignore[arg-type]
        (lambda: DAS(TripletLoss(), 3, 4, copies=-1), InvalidInput, "copies is -1"),
        (lambda: DAML(ContrastiveLoss(), nn.Linear(2, 2), 2), InvalidInput, "pass a TripletLoss or an NPairLoss"),
        (lambda: LoOp(ContrastiveLoss()), InvalidInput, "LoOp has forms of multi_similarity, triplet"),
        (lambda: SymmetricalSynthesis(ContrastiveLoss()), InvalidInput, "pass an NPairLoss, TripletLoss"),
        (lambda: Metrix(TripletLoss()), InvalidInput, "pass a MultiSimilarityLoss, ContrastiveLoss or ProxyAnchor"),
        (lambda: ProxySynthesis(TripletLoss()), InvalidType, "pass a loss on proxies"),  # type: ignore[arg-type]
        (lambda: MemVir(PROXY_LOSSES["soft_triple"](3, 4), 8), InvalidInput, "pass a loss with one"),
    ],
)
def test_what_a_method_cannot_take_is_one_sentence(make: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        make()  # type: ignore[operator]


def test_shapes_that_do_not_fit_are_refused() -> None:
    method = DAS(loss_for("das"), CLASSES, DIM)
    with pytest.raises(InvalidInput, match=r"pass \(b, w\), \(b, d\) and \(b,\) of one batch"):
        method.step(torch.zeros(4, 3), torch.zeros(3, DIM), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="number the classes from 0"):
        method.step(torch.zeros(4, 3), torch.zeros(4, DIM), torch.tensor([0, 0, CLASSES, CLASSES]))
    memory = setting("memvir", **SHORT["memvir"]).method
    rows: Tensor = torch.randn(20, DIM, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="batch_size of MemVir is 16"):
        memory.step(rows, rows, torch.arange(20) % CLASSES)
