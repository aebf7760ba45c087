"""The grid: regimes, losses, arms and settings, and the runs that they make.

A regime is a data set with a network and a way of sampling. An arm is what happens to the loss. A setting says where
the learning rate and the loss's parameter come from. Nothing heavy is imported here, so that `--dry_run` is fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from embedding_expansion.errors import UnknownName

Setting: TypeAlias = Literal["trial", "tuned", "default", "fast"]
Phase: TypeAlias = Literal["choice", "confirmation"]
Options: TypeAlias = dict[str, Any]

#: The five losses of Ko & Gu, CVPR 2020; their whole set of arms is run.
PAPER_LOSSES = ("triplet", "hphn_triplet", "n_pair", "lifted_structure", "multi_similarity")
#: Further losses, with the plain loss, the paper's form and the chosen forms.
MORE_LOSSES = ("sup_con", "contrastive", "circle", "proxy_anchor")
#: The losses of the regimes with faults in the training data.
FAULTY_LOSSES = ("multi_similarity", "triplet", "sup_con", "contrastive")

PLAIN = "plain"
#: The arms, as options of a run.
ARMS: dict[str, Options] = {
    PLAIN: {"expansion.form": "none"},
    "batch_hard": {"expansion.form": "none", "miner.name": "batch_hard"},
    "semi_hard": {"expansion.form": "none", "loss.mining": "semihard"},
    "ms_mining": {"expansion.form": "none", "miner.name": "multi_similarity"},
    "n0": {"expansion.form": "paper", "expansion.n": 0},
    "paper": {"expansion.form": "paper", "expansion.n": 2},
    "anchor": {"expansion.form": "anchor", "expansion.n": 2},
    "balanced": {"expansion.form": "balanced", "expansion.n": 2},
    "balanced_negative": {"expansion.form": "balanced_negative", "expansion.n": 2},
    "balanced_n0": {"expansion.form": "balanced", "expansion.n": 0},
    "balanced_sphere": {"expansion.form": "balanced_sphere", "expansion.n": 2},
    "selective": {"expansion.form": "selective", "expansion.n": 2},
}
#: The arms from which the default form is chosen: all that expand.
CANDIDATES = ("n0", "paper", "anchor", "balanced", "balanced_negative", "balanced_n0", "balanced_sphere", "selective")
#: The arms that are also run untuned, besides the plain loss and the default once it is chosen.
UNTUNED = ("paper", "balanced", "balanced_negative", "balanced_n0")
#: The balanced arms, of which the best two are run in the regimes that confirm the choice.
BALANCED = ("balanced", "balanced_negative", "balanced_n0", "balanced_sphere")
#: Arms that only some losses have: semi-hard mining is an option of the triplet loss, and HPHN reads the hardest pairs
#: only, so that these miners change nothing.
_ONLY = {"semi_hard": ("triplet",)}
_WITHOUT = {"hphn_triplet": ("batch_hard", "ms_mining")}
#: Trials of each arm for its learning rate and the parameter of its loss; trial 0 has the given values.
TRIALS = 6
#: The learning rate of the setting "fast", as a factor of the regime's.
FAST = 10.0

HEADS: Options = {
    "data.part": True,
    "data.image_size": 128,
    "data.transform": "paper",
    "model.backbone": "mobilenet_v2",
    "model.mean": [0.5, 0.5, 0.5],
    "model.std": [0.5, 0.5, 0.5],
    "model.freeze_backbone": True,
    "model.dim": 128,
}
_FINETUNE: Options = {name: value for name, value in HEADS.items() if name != "model.freeze_backbone"} | {
    "data.workers": 0,
    "precision": "auto",
    "model.freeze_batch_norm": True,
    "model.dim": 512,
    "optimizer.lr": 1e-4,
    "steps": 200,
}


@dataclass(frozen=True)
class Regime:
    """A data set, a network and a way of sampling.

    Attributes:
        name: the name in results and on the command line.
        data: the data set.
        title: the regime in words.
        options: options of a run, by their full names.
        seeds: the number of seeds.
        phase: whether the default is chosen on it, or the choice is confirmed on it, and so run after it.
        losses: the losses.
        whole: the losses whose every arm is run; the others have the plain loss, the paper's form and the chosen forms.
        settings: the settings besides trials and "tuned".
        tuned_in: the regime whose tuning is used; empty for its own, None for no tuning.
        fault: what is done to the training images, see `faults.py`.
        seconds: the expected time of a run on one core, until results have measured it.
    """

    name: str
    data: str
    title: str
    options: Options
    seeds: int
    phase: Phase
    losses: tuple[str, ...] = PAPER_LOSSES + MORE_LOSSES
    whole: tuple[str, ...] = PAPER_LOSSES
    settings: tuple[Setting, ...] = ()
    tuned_in: str | None = ""
    fault: str = ""
    seconds: float = 20.0

    @property
    def is_head(self) -> bool:
        """Whether only the head is trained, on cached features."""
        return bool(self.options.get("model.freeze_backbone"))


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        regime: the name of the regime.
        loss: the name of the loss.
        arm: the name of the arm.
        setting: where learning rate and loss parameter come from.
        seed: the seed of the run; the number of a trial.
    """

    regime: str
    loss: str
    arm: str
    setting: Setting
    seed: int

    @property
    def group(self) -> str:
        """The runs that need the same trials."""
        return f"{self.regime}/{self.loss}/{self.arm}"

    @property
    def key(self) -> str:
        """The name of the run in the results."""
        return f"{self.group}/{self.setting}/{self.seed}"


def _sampled(classes: int, images: int) -> Options:
    return {"sampler.classes_per_batch": classes, "sampler.images_per_class": images}


_GLYPHS: dict[str, Any] = {"data": "glyphs", "seeds": 5, "seconds": 20.0}
_SETTINGS: tuple[Setting, ...] = ("default", "fast")


def _glyphs() -> Iterator[Regime]:
    yield Regime(
        "glyphs",
        title="glyphs from scratch, 8 x 4",
        options=_sampled(8, 4),
        phase="choice",
        settings=_SETTINGS,
        **_GLYPHS,
    )
    for classes, images in ((16, 2), (4, 8)):
        yield Regime(
            f"glyphs-k{images}",
            title=f"glyphs from scratch, {classes} x {images}",
            options=_sampled(classes, images),
            phase="confirmation",
            losses=("triplet", "multi_similarity"),
            whole=("triplet", "multi_similarity"),
            **_GLYPHS,
        )


#: Classes x images of a batch of each set of photographs: K = 4, K = 2 and that of the released program.
_BATCHES = {"cars": ((32, 4), (64, 2), (4, 32)), "cub": ((16, 4), (20, 2), (4, 32))}
_TITLES = {"cars": "CARS196-half", "cub": "CUB-50"}


def _heads() -> Iterator[Regime]:
    for data, batches in _BATCHES.items():
        for start, words in (("", "a random start"), ("-pca", "the start at the PCA")):
            init = {"model.head_init": "pca" if start else "random"}
            for classes, images in batches:
                is_main = images == 4
                yield Regime(
                    f"{data}-head{start}" + ("" if is_main else f"-k{images}"),
                    data,
                    f"head on features of {_TITLES[data]}, {words}, {classes} x {images}",
                    HEADS | init | _sampled(classes, images),
                    10,
                    "choice" if is_main else "confirmation",
                    losses=PAPER_LOSSES + MORE_LOSSES if is_main and not start else PAPER_LOSSES,
                    whole=PAPER_LOSSES if is_main else (),
                    settings=_SETTINGS if is_main and not start else (),
                    seconds=5.0,
                )


def _faulty() -> Iterator[Regime]:
    faults = {
        "wrong10": "10% wrong labels",
        "wrong30": "30% wrong labels",
        "twice": "duplicates under two labels",
        "tail": "a long tail of class sizes",
    }
    for fault, words in faults.items():
        common: dict[str, Any] = {"phase": "confirmation", "losses": FAULTY_LOSSES, "whole": (), "fault": fault}
        yield Regime(
            f"glyphs-{fault}",
            title=f"glyphs with {words}",
            options=_sampled(8, 4),
            tuned_in="glyphs",
            **_GLYPHS,
            **common,
        )
        yield Regime(
            f"cars-head-{fault}",
            "cars",
            f"head on CARS196-half with {words}",
            HEADS | {"model.head_init": "random"} | _sampled(32, 4),
            10,
            tuned_in="cars-head",
            seconds=5.0,
            **common,
        )


def _finetuned(has_cuda: bool) -> Iterator[Regime]:
    """End to end: with a GPU both sets and all five losses; otherwise two losses on the cars."""
    for data in ("cars", "cub") if has_cuda else ("cars",):
        for classes, images in ((64 if data == "cars" else 20, 2), (4, 32)):
            yield Regime(
                f"{data}-finetune-k{images}",
                data,
                f"{_TITLES[data]} end to end, {classes} x {images}",
                _FINETUNE | _sampled(classes, images),
                3 if has_cuda else 2,
                "confirmation",
                losses=PAPER_LOSSES if has_cuda else ("multi_similarity", "triplet"),
                whole=(),
                settings=("default",),
                tuned_in=None,
                seconds=60.0 if has_cuda else 900.0,
            )


def regimes(*, has_cuda: bool = False) -> dict[str, Regime]:
    """All regimes by name, those of the choice first; the others in the order in which they are run."""
    omniglot = Regime(
        "omniglot",
        "omniglot",
        "Omniglot from scratch, 16 x 4",
        _sampled(16, 4) | {"data.image_size": 32},
        3,
        "confirmation",
        seconds=60.0,
    )
    found = [*_glyphs(), *_heads(), omniglot, *_faulty(), *_finetuned(has_cuda)]
    return {regime.name: regime for regime in sorted(found, key=lambda regime: regime.phase != "choice")}


def chosen_regimes(known: Mapping[str, Regime], names: Sequence[str]) -> list[Regime]:
    """The regimes of some names, or all of them.

    Raises:
        UnknownName: there is no regime of a name.
    """
    for name in names:
        if name not in known:
            raise UnknownName("regime", name, known)
    return [regime for regime in known.values() if not names or regime.name in names]


def arms(regime: Regime, loss: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The arms of a loss in a regime.

    Args:
        regime: the regime.
        loss: the loss.
        chosen: the balanced forms that were chosen; empty before the choice.
    """
    if loss in regime.whole:
        left_out = _WITHOUT.get(loss, ())
        return tuple(arm for arm in ARMS if arm not in left_out and loss in _ONLY.get(arm, (loss,)))
    return (PLAIN, "paper", *(chosen if regime.tuned_in is not None else chosen[:1]))  # end to end takes hours


def cells(regime: Regime, chosen: tuple[str, ...]) -> Iterator[Cell]:
    """The runs of a regime: the trials of each group before the runs that use their best one.

    Runs that wait for the choice of a form are left out while `chosen` is empty.
    """
    if regime.phase == "confirmation" and not chosen:
        return
    groups = [
        (loss, arm) for loss in regime.losses if loss in regime.whole or chosen for arm in arms(regime, loss, chosen)
    ]
    for loss, arm in groups:
        if regime.tuned_in == "":
            yield from (Cell(regime.name, loss, arm, "trial", number) for number in range(TRIALS))
        if regime.tuned_in is not None:
            yield from (Cell(regime.name, loss, arm, "tuned", seed) for seed in seeds(regime))
    for setting in regime.settings:
        for loss, arm in groups:
            if has_untuned(arm, chosen):
                yield from (Cell(regime.name, loss, arm, setting, seed) for seed in seeds(regime, setting))


def has_untuned(arm: str, chosen: tuple[str, ...]) -> bool:
    """Whether an arm is also run with the given values."""
    return arm in (PLAIN, *UNTUNED, *chosen)


def seeds(regime: Regime, setting: Setting = "tuned") -> range:
    """From 1 on, because the trials have the seed 0; half of them, and at least 3, with the high learning rate."""
    return range(1, 1 + (max(3, regime.seeds // 2) if setting == "fast" else regime.seeds))
