"""Commands in processes of their own, which share the time that importing takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

PROGRAM = """
import json, os, sys, tempfile
from embedding_expansion.app.cli import main
import embedding_expansion.app.report.page, embedding_expansion.inference.collection

def run(before, arguments):
    exec(before, globals())
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()  # as a program does at its end; to take torch apart as well takes a second
    return status or 0

found = []
for before, arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            os._exit(run(before, arguments))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        found.append([status, said.read().decode(errors="backslashreplace")])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (or minus the signal) and what it said on stderr."""

    status: int
    stderr: str


def run_each(commands: list[tuple[str, list[str]]]) -> list[Ended]:
    """Runs each command in a process of its own.

    Args:
        commands: for each Python that its process runs first, and its arguments.
    """
    given = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(commands)]
    with tempfile.TemporaryDirectory() as folder:  # for what a killed one cannot remove
        environment = {**os.environ, "TMPDIR": folder}
        run = subprocess.run(given, stdout=subprocess.PIPE, check=True, timeout=300, env=environment)
    return [Ended(*entry) for entry in json.loads(run.stdout.splitlines()[-1])]  # those before have printed
