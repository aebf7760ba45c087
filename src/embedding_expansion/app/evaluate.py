"""embex evaluate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.training.config import DataConfig


def run(arguments: list[str]) -> int:
    """Measures a run again and prints the measures; gives back the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex evaluate", exit_on_error=False, allow_abbrev=False, description="Measures a trained run again."
    )
    options.add_argument("run", type=str, help="run folder")
    options.add_argument("--data", type=str | None, default=None, help="another data set, by name or path")
    options.add_argument("--root", type=str | None, default=None, help="folder that holds the data set")
    options.add_argument("--part", type=bool | None, default=None, help="open a part of the set, and say so")
    options.add_argument("--out", type=str | None, default=None, help="JSON file for the measures")
    given = parse(options, arguments)
    path = Path(given.run)

    from embedding_expansion.data.loader import broken_sentence
    from embedding_expansion.training.files import check_place, write_json
    from embedding_expansion.training.report import say_measures
    from embedding_expansion.training.run_folder import RunFolder
    from embedding_expansion.training.trained import evaluate

    if given.out is not None:
        check_place(Path(given.out))
    data = RunFolder(path).read_config().data if given.data is None else DataConfig(name=given.data)
    changes = {name: given[name] for name in ("root", "part") if given[name] is not None}
    measures = evaluate(path, dataclasses.replace(data, **changes))
    say_measures(f"{measures['data']}, {given.run}", measures)
    print(f"R-precision {measures['r_precision']:.3f}, MAP@R {measures['map_at_r']:.3f}, AMI {measures['ami']:.3f}")
    if measures["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, measures["broken_images"]), "")))
    if given.out is not None:
        write_json(Path(given.out), measures)
    return 0
