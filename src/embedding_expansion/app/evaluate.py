"""embex evaluate."""

from __future__ import annotations

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
    options.add_argument("--root", type=str | None, default=None, help="folder that holds it")
    options.add_argument("--part", type=bool, default=False, help="open a part of it, and say so")
    options.add_argument("--out", type=str | None, default=None, help="JSON file for the measures")
    given = parse(options, arguments)

    from embedding_expansion.data.loader import broken_sentence
    from embedding_expansion.training.checkpoint import write_json
    from embedding_expansion.training.report import say_measures
    from embedding_expansion.training.trained import evaluate

    data = None if given.data is None else DataConfig(name=given.data, root=given.root, part=given.part)
    measures = evaluate(Path(given.run), data)
    say_measures(f"{measures['data']}, {given.run}", measures)
    print(f"R-precision {measures['r_precision']:.3f}, MAP@R {measures['map_at_r']:.3f}, AMI {measures['ami']:.3f}")
    if measures["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, measures["broken_images"]), "")))
    if given.out is not None:
        write_json(Path(given.out), measures)
    return 0
