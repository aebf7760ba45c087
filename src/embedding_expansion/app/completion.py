"""The command embex completion."""

from __future__ import annotations

from typing import Literal

from embedding_expansion.app.arguments import command, parse


def run(arguments: list[str]) -> int:
    """Prints the script for a shell; returns the exit status."""
    options = command(
        "completion",
        "Prints a script with which a shell completes the commands, options and names of embex. For bash and zsh, "
        "evaluate it in ~/.bashrc or ~/.zshrc; for fish, write it to ~/.config/fish/completions/embex.fish.",
    )
    options.add_argument("shell", type=Literal["bash", "zsh", "fish"], help="the shell")
    given = parse(options, arguments)

    from argcomplete.shell_integration import shellcode

    print(shellcode(["embex"], shell=given.shell))
    return 0
