"""The command line: embex train, evaluate, index, ... : see COMMANDS.

Nothing heavy is imported before the arguments are known to be right, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from embedding_expansion import __version__
from embedding_expansion.app.streams import standing
from embedding_expansion.errors import EmbeddingExpansionError, UnknownName
from embedding_expansion.failures import failure

COMMANDS = {
    "train": "train an embedding model, and measure it before and after",
    "evaluate": "measure a trained run again, or on another data set",
    "report": "write the report of a run again, as one HTML file",
    "calibrate": "find the similarity from which images are of one class, or known",
    "export": "export a trained model for other programs: ONNX, torch.export, safetensors",
    "embed": "embed image files with a trained run",
    "index": "embed images into an index that can be searched",
    "add": "add images to an index",
    "remove": "remove images from an index",
    "search": "find the images of an index that are most like others",
    "cluster": "group images, or those of an index, into clusters",
    "duplicates": "find the near-duplicates of an index",
    "serve": "serve an index: a page in the browser and a JSON API",
    "info": "what an index holds",
    "data": "list, check and download data sets",
    "env": "show the installed versions and whether the C libraries are used",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: by default those that the program was started with.

    Returns:
        The exit status: 0, 2 for an error (one line on stderr says which), 128 plus the signal that stopped it; 1 from
        a command that did its work but not on everything.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with standing("stderr"):
        try:
            with standing("stdout"):
                return _dispatch(given)
        except (EmbeddingExpansionError, OSError, MemoryError, RuntimeError) as error:
            known = error if isinstance(error, EmbeddingExpansionError) else failure(error)
            if known is None and not isinstance(error, OSError):  # a full disk or a forbidden folder is no bug of ours
                raise
            print(f"embex: {' '.join(str(known or error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("embex: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] == "--version":
        print(f"embex {__version__}")
        return 0
    if given[0] not in COMMANDS:
        raise UnknownName("command", given[0], COMMANDS)
    # Threads that wait should sleep: spinning, they take the cores from each other wherever something else runs too
    # (measured: a quarter of the images per second on two busy cores). Read when torch loads its thread pool.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = importlib.import_module(f"embedding_expansion.app.{given[0]}")
    status: int = command.run(given[1:])
    return status


def _help() -> str:
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return (
        "usage: embex COMMAND ...\n\nDeep metric learning with embedding expansion. `embex train` alone trains on the "
        f"embedded data set.\n\ncommands:\n{commands}\n\noptions:\n  -h, --help  this text; embex COMMAND --help has "
        "that of a command\n  --version   the version"
    )
