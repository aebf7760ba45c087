"""How `--help` looks: a usage of one line, examples to type, and the defaults of options that have one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

from jsonargparse import DefaultHelpFormatter

#: With more options than this, the usage says [OPTION ...] instead of naming them all.
NAMED = 4


class Help(DefaultHelpFormatter):
    """The formatter of all commands."""

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,
    ) -> str:
        given = list(actions)
        options = [action for action in given if action.option_strings]
        if len(options) <= NAMED or usage is not None:
            return super()._format_usage(usage, given, groups, prefix)
        arguments = [action for action in given if not action.option_strings]
        return super()._format_usage(None, arguments, [], prefix).rstrip() + " [OPTION ...]\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wraps a description, but not its indented lines, which are examples."""
        parts = [
            block if block.startswith("  ") else super(Help, self)._fill_text(block, width, indent)
            for block in text.split("\n\n")
        ]
        return "\n\n".join(parts)

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str | None
    ) -> Callable[[int], tuple[str, ...]]:
        """The values of an option, without null, which stands for an option that is not passed."""
        if isinstance(action.metavar, str) and action.metavar.endswith(",null}"):
            return lambda size: (str(action.metavar).replace(",null}", "}"),) * size
        return super()._metavar_formatter(action, default_metavar)  # type: ignore[arg-type]

    def _get_help_string(self, action: argparse.Action) -> str:
        """The help of an option, with its default, unless there is none or the text names it."""
        text = action.help or ""
        has_default = action.default is not None and action.default not in (argparse.SUPPRESS, [])
        is_shown = has_default and action.default is not False and "default:" not in text
        return f"{text} (default: {_shown(action.default)})" if text and action.option_strings and is_shown else text


def _shown(default: object) -> str:
    """A default as it would be typed."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, dict):  # the loss: its name stands for it
        return str(default.get("name", default))
    return str(default).replace("%", "%%")


def with_examples(description: str, examples: Sequence[str]) -> str:
    """A description followed by commands that a user can type."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"{description}\n\nexamples:\n\n{lines}" if examples else description
