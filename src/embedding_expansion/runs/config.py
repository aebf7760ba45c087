"""Reads and writes the options of a run as text: the command line and `config.yaml`.

A YAML parser alone would read an empty option as null, and would silently take the last value of a repeated option. So
the lines of a configuration are checked first.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.runs.help import Help
from embedding_expansion.runs.option_errors import hint, sentence
from embedding_expansion.runs.options import FREE, ModelConfig, TrainConfig

_WRITE = "write options as steps: 300"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Parser(jsonargparse.ArgumentParser):
    """A parser that validates the text of a configuration file before it parses the values."""

    def parse_path(self, path: str | os.PathLike[str], *rest: Any, **named: Any) -> Any:
        """As the parser's own."""
        check_text(Path(path).read_text(encoding="utf-8"), may_be_null(), os.fspath(path))
        return super().parse_path(path, *rest, **named)

    def parse_string(self, content: str, path: str | os.PathLike[str] = "", *rest: Any, **named: Any) -> Any:
        """As the parser's own."""
        if not path:  # a file's text was looked at above
            check_text(content, may_be_null())
        return super().parse_string(content, path, *rest, **named)


def may_be_null() -> dict[str, bool]:
    """The full name of each option, and whether it may be null (the program then chooses a value)."""
    found = {}
    for option in _options(TrainConfig()):
        for inner in [] if option.section is None else _options(option.default):
            found[f"{option.name}.{inner.name}"] = inner.may_be_null
        if option.section is None and option.name not in FREE:
            found[option.name] = option.may_be_null
    return found


#: The options that most trainings set; `--help` shows them first.
_COMMON = (
    "recipe",
    "data.name",
    "model.backbone",
    "model.pretrained",
    "model.weights",
    "loss",
    "method",
    "expansion.form",
    "steps",
    "optimizer.lr",
    "out",
    "seed",
)


def parser(
    prog: str = "embex train",
    description: str = "",
    texts: Mapping[str, str] | None = None,
    short: Mapping[str, str] | None = None,
) -> jsonargparse.ArgumentParser:
    """The parser of `embex train`: an option for every field of `TrainConfig`, and `--config FILE`.

    Args:
        prog: the command; others take the same options.
        description: what it does.
        texts: full name of an option -> its help, where the command needs another one; `argparse.SUPPRESS` hides it.
        short: short form of an option -> its full name, which the command replaces before it parses; for the help.
    """
    result = _Parser(prog=prog, exit_on_error=False, allow_abbrev=False, description=description, formatter_class=Help)
    common = result.add_argument_group("common options")
    common.add_argument(
        "--config",
        action="config",
        help="YAML file, such as the config.yaml of a run folder; other options override it",
    )
    forms = {full.removeprefix("--"): f"{given}: " for given, full in (short or {}).items()}
    groups = {name: result.add_argument_group(title) for name, title in _topics().items()}
    for topic, name, option in sorted(_named(), key=lambda one: _COMMON.index(one[1]) if one[1] in _COMMON else 99):
        group = common if name in _COMMON else groups[topic]
        text = (texts or {}).get(name, option.text)
        shown = text if text == argparse.SUPPRESS else forms.get(name, "") + text
        group.add_argument(f"--{name}", type=option.kind, default=option.default, help=shown)
    return result


def _topics() -> dict[str, str]:
    """The sections of the options and their titles, in order; the first one has those without a section."""
    sections = {option.name: option.text for option in _options(TrainConfig()) if option.section is not None}
    return {"": "training and evaluation"} | sections


def _named() -> Iterator[tuple[str, str, _Option]]:
    """The section, the full name and the description of each option."""
    for option in _options(TrainConfig()):
        if option.section is None:
            yield "", option.name, option
            continue
        for inner in _options(option.default):
            yield option.name, f"{option.name}.{inner.name}", inner


def from_namespace(parsed: jsonargparse.Namespace) -> TrainConfig:
    """Converts the result of `parser()` to a configuration.

    Raises:
        InvalidInput: a value is invalid.
    """
    values = parsed.as_dict()
    arguments: dict[str, Any] = {}
    for option in _options(TrainConfig()):
        given = values[option.name]
        if option.section is not None and not isinstance(given, dict):
            entries = f"{option.name}: {{{_options(option.default)[0].name}: {given}}}"
            raise InvalidInput(f"{option.name} is {given!r}; pass entries, such as {entries}")
        arguments[option.name] = given if option.section is None else option.section(**given)
    return TrainConfig(**arguments)


def dump(config: TrainConfig) -> str:
    """Writes the configuration as YAML, for `load`; None is null, so that no recipe replaces it."""
    text: str = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)  # type: ignore[no-untyped-call]
    return text


def dump_model(model: ModelConfig) -> str:
    """Writes the options of a network alone as YAML, for `load`."""
    given = {name: value for name, value in dataclasses.asdict(model).items() if value is not None}
    text: str = yaml.safe_dump({"model": given}, sort_keys=False)  # type: ignore[no-untyped-call]
    return text


def load(path: Path) -> TrainConfig:
    """Reads a `config.yaml`.

    Raises:
        RunError: the file is missing, or not the configuration of a run.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); pass a run folder made by embex train") from error
    try:
        return _as_it_meant(from_namespace(parser().parse_string(text)))
    except (jsonargparse.ArgumentError, InvalidInput) as error:
        raise RunError(f"{path} is not the configuration of a run: {sentence(str(error), [*may_be_null()])}") from error


def _as_it_meant(config: TrainConfig) -> TrainConfig:
    """The configuration of a run that may be older than the forms of expansion, when there was only the paper's."""
    expansion = config.expansion
    if expansion.form is not None or expansion.n is None:
        return config
    return dataclasses.replace(config, expansion=dataclasses.replace(expansion, form="paper"))


@dataclass(frozen=True)
class _Option:
    """A field of a configuration as an option. A section is a field that has fields itself."""

    name: str
    kind: Any
    section: type[Any] | None
    default: Any  # the value of the field
    text: str

    @property
    def may_be_null(self) -> bool:
        """Whether null is allowed, so that the program chooses the value."""
        return type(None) in typing.get_args(self.kind)


def _options(config: Any) -> list[_Option]:
    options = []
    for name, annotation in typing.get_type_hints(type(config), include_extras=True).items():
        kind, text = typing.get_args(annotation)
        section: type[Any] | None = kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
        options.append(_Option(name, kind, section, getattr(config, name), text))
    return options


def check_text(text: str, options: Mapping[str, bool], file: str = "") -> None:
    """Checks that a text maps options to values.

    Args:
        text: the YAML text.
        options: the full name of each option, such as `optimizer.lr`, and whether it may be null.
        file: the file name for error messages.

    Raises:
        InvalidInput: the text is empty or not YAML, or an option is unknown, empty, repeated or nested too deeply.
    """
    whole, of_file = file or "the text", f" of {file}" if file else ""
    try:
        root = yaml.compose(text, Loader=_LOADER)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(_sentence(error, text, of_file)) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{whole} is not YAML ({' '.join(str(error).split())}); {_WRITE}, one per line") from error
    except RecursionError as error:
        raise InvalidInput(f"{whole} is nested too deeply; {_WRITE}") from error
    if root is None:
        raise InvalidInput(f"{whole} is empty; {_WRITE}, or omit the file")
    if not isinstance(root, yaml.MappingNode):
        raise InvalidInput(f"{whole} contains no options; {_WRITE}, one per line")
    given: dict[str, int] = {}
    for name, node, line in _entries(root, options):
        where = f"line {line}{of_file}"
        if name in given:
            raise InvalidInput(f"{where}: {name} is already given in line {given[name]}; remove one of the lines")
        given[name] = line
        _check_entry(name, node, options, where)


def _entries(root: yaml.MappingNode, options: Mapping[str, bool]) -> Iterator[tuple[str, yaml.Node, int]]:
    """The options with their full names, values and lines."""
    sections = {name.partition(".")[0] for name in options if "." in name} | {*FREE}
    for key, value in root.value:
        name, line = _name(key)
        if name in sections and isinstance(value, yaml.MappingNode):
            for inner, entry in value.value:
                last, line = _name(inner)
                yield f"{name}.{last}", entry, line
        else:
            yield name, value, line


def _name(key: yaml.Node) -> tuple[str, int]:
    """The name of a key and its line."""
    return key.value if isinstance(key, yaml.ScalarNode) else "[...]", key.start_mark.line + 1


def _check_entry(name: str, node: yaml.Node, options: Mapping[str, bool], where: str) -> None:
    section, _, _ = name.partition(".")
    is_section = name == section and (section in FREE or any(option.startswith(f"{name}.") for option in options))
    if name not in options and not is_section and section not in FREE:
        raise InvalidInput(
            f"{where}: there is no option {name!r}; {hint(name, options)}embex train --help lists all options"
        )
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        found = "null" if node.value else "empty"
        if found == "empty" or not options.get(name, False):
            raise InvalidInput(f"{where}: {name} is {found}; give it a value, or remove the line")
    if isinstance(node, yaml.MappingNode) or (
        isinstance(node, yaml.SequenceNode) and not all(isinstance(entry, yaml.ScalarNode) for entry in node.value)
    ):
        raise InvalidInput(f"{where}: {name} is nested; pass a single value, or a list of numbers")


def _sentence(error: yaml.MarkedYAMLError, text: str, of_file: str) -> str:
    """The line and its problem in one sentence, instead of several lines."""
    number = error.problem_mark.line
    line = "".join(text.splitlines()[number : number + 1])
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"line {number + 1}{of_file} is indented with a tab; indent it with spaces"
    return f"line {number + 1}{of_file} is not YAML ({error.problem}); {_WRITE}, one per line"
