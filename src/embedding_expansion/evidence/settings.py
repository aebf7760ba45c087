"""The options of a run: those of its regime, arm and setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from embedding_expansion.evidence.grid import ARMS, FAST, Cell, Options, Regime
from embedding_expansion.runs.options import TrainConfig, with_options
from embedding_expansion.tuning.space import Range, make_space

_LR_FACTOR, _LOSS_FACTOR = 10.0, 3.0  # up and down, from the given value
_STEPS = (0.7548776662466927, 0.5698402909980532)  # 1/p and 1/p^2 for p^3 = p + 1
_OF_THE_MACHINE = ("data.root", "model.weights", "out", "threads", "device")
#: Evaluations of the held-out classes in a run.
EVALUATIONS = 3


def trial_values(regime: Regime, loss: str, number: int) -> dict[str, float]:
    """The learning rate and the parameter of the loss in a trial, the same for all arms.

    Trial 0 has the given values. The others lie between a tenth and ten times the learning rate, and between a third
    and three times the parameter, spread evenly on a logarithmic scale by the additive recurrence of the plastic number
    (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
    """
    given = with_options(TrainConfig(), regime.options | {"loss.name": loss})
    found = {}
    for step, (name, values) in zip(_STEPS, make_space(given, ["lr", "loss"], 1, 1).dimensions.items(), strict=True):
        assert isinstance(values, Range)
        factor = _LR_FACTOR if name == "optimizer.lr" else _LOSS_FACTOR
        place = 2 * (number * step % 1) - 1 if number else 0.0
        found[name] = float(f"{values.default * factor**place:.3g}")
    return found


def values_of(cell: Cell, regime: Regime, best: Mapping[str, float]) -> dict[str, float]:
    """The learning rate and the parameter of the loss of a run.

    Args:
        cell: the run.
        regime: its regime.
        best: the values of the best trial, for the setting "tuned".
    """
    if cell.setting == "tuned":
        return dict(best)
    values = trial_values(regime, cell.loss, cell.seed if cell.setting == "trial" else 0)
    if cell.setting == "fast":
        values["optimizer.lr"] *= FAST
    return values


def configuration(cell: Cell, regime: Regime, values: Mapping[str, float], own: Options) -> TrainConfig:
    """The configuration of a run.

    Args:
        cell: the run.
        regime: its regime.
        values: its learning rate and the parameter of its loss.
        own: options of this machine, such as folders and weights.
    """
    seed = 0 if cell.setting == "trial" else cell.seed
    named = {"data.name": regime.data, "loss.name": cell.loss, "seed": seed}
    options = regime.options | named | ARMS[cell.arm] | dict(values) | own
    config = with_options(TrainConfig(threads=1, measure_before=False, precision="float32"), options)
    every = max(config.steps // EVALUATIONS, 1)
    return dataclasses.replace(config, eval_every=every, checkpoint_every=10**9)


def described(config: TrainConfig) -> Options:
    """The options of a run that are not defaults, by their full names, without paths."""
    given, usual = _flat(config), _flat(TrainConfig())
    return {name: value for name, value in given.items() if value != usual.get(name) and name not in _OF_THE_MACHINE}


def _flat(config: TrainConfig) -> Options:
    found: Options = {}
    for section, values in dataclasses.asdict(config).items():
        inner = {f"{section}.{name}": one for name, one in values.items()} if isinstance(values, dict) else None
        found |= {section: values} if inner is None else inner
    return found
