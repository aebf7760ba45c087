"""Error sentences for options: the option, the given value, the allowed values and the closest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Names of options in other libraries.
_ELSEWHERE = {
    "learning_rate": "optimizer.lr",
    "optimiser": "optimizer.name",
    "wd": "optimizer.weight_decay",
    "scheduler": "optimizer.schedule",
    "lr_scheduler": "optimizer.schedule",
    "grad_clip": "optimizer.clip_norm",
    "clip": "optimizer.clip_norm",
    "epochs": "steps",
    "iterations": "steps",
    "max_steps": "steps",
    "batch_size": "sampler.classes_per_batch",
    "samples_per_class": "sampler.images_per_class",
    "num_workers": "data.workers",
    "dataset": "data.name",
    "embedding_dim": "model.dim",
    "embedding_size": "model.dim",
    "arch": "model.backbone",
    "margin": "loss.margin",
    "gpu": "device",
    "amp": "precision",
    "output": "out",
    "output_dir": "out",
}


def sentence(message: str, known: list[str]) -> str:
    """Shortens an error message of jsonargparse to one sentence.

    Args:
        message: the message.
        known: the names of all options, without dashes.
    """
    line = " ".join(message.replace("Parser key ", "").split())
    if unknown := re.search(r"nrecognized arguments: (\S+)|Option '([\w.]+)' is not accepted", line):
        name = (unknown[1] or unknown[2]).removeprefix("--").split("=")[0]
        if unknown[1] and not unknown[1].startswith("-"):
            return f"there is no argument {unknown[1]!r}; --help lists all arguments"
        return f"there is no option {unknown[1] or unknown[2]!r}; {hint(name, known, '--')}--help lists all options"
    if wrong := re.search(
        r'^"([\w.]+)": .*?(?:Expected an? (.*?)\.|Subtypes: \[(.*?)\] .*) (?:Got|Given) value: (.*)', line
    ):
        option, given = wrong[1], wrong[4]
        wanted, choices = _wanted(wrong[2] or wrong[3])
        return f"--{option} is {given!r}; {hint(given, choices)}pass {wanted}"
    return line.replace('"config": ', "--config: ")


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [1, 2]",
    "dict": "entries such as {name: triplet}",
}


def _wanted(types: str) -> tuple[str, list[str]]:
    """The types in words, and the allowed names."""
    choices = re.findall(r"'([\w.]+)'(?!>)", types)
    kinds = re.findall(r"<class '(\w+)'>|\b(list|dict)\b", types)
    words = [_WORDS[kind] for pair in kinds for kind in pair if kind in _WORDS]
    return " or ".join(dict.fromkeys([*words, *choices])), choices


def hint(given: str, known: Iterable[str], dashes: str = "") -> str:
    """A suggestion such as `did you mean lr? `: the name in another section, our name for it, or a similar name."""
    names = [*known]
    last = given.rpartition(".")[2].replace("-", "_").lower()
    same = [name for name in names if name.rpartition(".")[2] == last]
    elsewhere = [name for name in (_ELSEWHERE.get(last),) if name in names]
    near = same[:1] or elsewhere or difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"did you mean {dashes}{near[0]}? " if near else ""
