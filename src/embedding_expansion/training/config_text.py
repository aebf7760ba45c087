"""What is wrong with the text of a configuration, told by its lines before any value is read.

A YAML reader takes an option that is left empty for null, and of an option that is given twice the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from embedding_expansion.errors import InvalidInput
from embedding_expansion.training.option_errors import hint

#: Sections whose entries are not known here.
_FREE = ("loss",)
_WRITE = "write options as steps: 300"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_text(text: str, options: Mapping[str, bool], file: str = "") -> None:
    """Refuses a text that is no mapping of options to values.

    Args:
        text: YAML.
        options: the full name of each option, as `optimizer.lr`, and whether it may be null.
        file: its name, which the error then says.

    Raises:
        InvalidInput: it is empty or no YAML, or an option is unknown, empty, given twice or nested too deeply.
    """
    whole, of_file = file or "the text", f" of {file}" if file else ""
    try:
        root = yaml.compose(text, Loader=_LOADER)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(_sentence(error, text, of_file)) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{whole} is no YAML ({' '.join(str(error).split())}); {_WRITE}, one a line") from error
    except RecursionError as error:
        raise InvalidInput(f"{whole} is nested too deeply; {_WRITE}") from error
    if root is None:
        raise InvalidInput(f"{whole} is empty; {_WRITE}, or leave the file out")
    if not isinstance(root, yaml.MappingNode):
        raise InvalidInput(f"{whole} holds no options; {_WRITE}, one a line")
    given: dict[str, int] = {}
    for name, node, line in _entries(root, options):
        where = f"line {line}{of_file}"
        if name in given:
            raise InvalidInput(f"{where}: {name} is given in line {given[name]} already; leave one of them out")
        given[name] = line
        _check_entry(name, node, options, where)


def _entries(root: yaml.MappingNode, options: Mapping[str, bool]) -> Iterator[tuple[str, yaml.Node, int]]:
    """Each option with its value and its line; a section's are named in full."""
    sections = {name.partition(".")[0] for name in options if "." in name} | {*_FREE}
    for key, value in root.value:
        name, line = _name(key)
        if name in sections and isinstance(value, yaml.MappingNode):
            for inner, entry in value.value:
                last, line = _name(inner)
                yield f"{name}.{last}", entry, line
        else:
            yield name, value, line


def _name(key: yaml.Node) -> tuple[str, int]:
    """What a key is called, and the line that it stands in."""
    return key.value if isinstance(key, yaml.ScalarNode) else "[...]", key.start_mark.line + 1


def _check_entry(name: str, node: yaml.Node, options: Mapping[str, bool], where: str) -> None:
    section, _, _ = name.partition(".")
    is_section = name == section and (section in _FREE or any(option.startswith(f"{name}.") for option in options))
    if name not in options and not is_section and section not in _FREE:
        raise InvalidInput(
            f"{where}: there is no option {name!r}; {hint(name, options)}embex train --help lists them all"
        )
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        said = "null" if node.value else "empty"
        if said == "empty" or not options.get(name, False):
            raise InvalidInput(f"{where}: {name} is {said}; give it a value, or leave the line out")
    if isinstance(node, yaml.MappingNode) or (
        isinstance(node, yaml.SequenceNode) and not all(isinstance(entry, yaml.ScalarNode) for entry in node.value)
    ):
        raise InvalidInput(f"{where}: {name} is nested; pass a single value, or a list of numbers")


def _sentence(error: yaml.MarkedYAMLError, text: str, of_file: str) -> str:
    """The line and what is wrong there, instead of several lines."""
    number = error.problem_mark.line
    line = "".join(text.splitlines()[number : number + 1])
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"line {number + 1}{of_file} begins with a tab; indent it with spaces"
    return f"line {number + 1}{of_file} is no YAML ({error.problem}); {_WRITE}, one a line"
