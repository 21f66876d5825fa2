"""A command line and a YAML file -> the dataclasses of `arguments.py`. Imports no torch, so help is quick."""

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, TypeVar

import yaml
from transformers.hf_argparser import HfArgumentParser

from ..errors import ConfigError, one_line, shown
from ..file_names import SOFTWARE
from ..inputs.paths import expanded

T = TypeVar("T")

_CONFIG, _SHORT_HELP, _LONG_HELP = "--config", ("-h", "--help"), "--help_all"
_NULL = "tag:yaml.org,2002:null"


class HelpRequested(Exception):  # noqa: N818 - not an error
    """Somebody asked for help; the message is the help."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `supreme-init`.

    Attributes:
        name: What is typed.
        summary: What it does, in a few words.
        arguments: Dataclasses whose fields are its options.
        module: Module of this room that has ``run(parsed)``.
        before_models: Module whose ``run(parsed)`` is asked first; it returns the exit status if that takes no models,
            otherwise None.
        uses_models: Whether it loads models, so that diffusers has to be imported at all.
        usual: Options that ``--help`` shows, in this order.
        positional: Field that is given without an option, and what ``--help`` calls it.
        defaults: Of given options -> other defaults than those of the fields.
        example: How it is typed.
        details: Further lines of ``--help``.
    """

    name: str
    summary: str
    arguments: tuple[type, ...]
    module: str
    usual: tuple[str, ...]
    uses_models: bool = True
    before_models: str | None = None
    positional: tuple[str, str] | None = None
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = field(default=lambda given: {})
    example: str = ""
    details: str = ""


@dataclass(frozen=True)
class Parsed:
    """What somebody asked for.

    Attributes:
        values: Every option with its value, after the YAML file and the defaults.
        objects: The dataclasses of the command, by type.
        is_verbose: Whether other libraries should be heard as well.
    """

    values: Mapping[str, Any]
    objects: Mapping[type, Any]
    is_verbose: bool = False

    def of(self, kind: type[T]) -> T:
        """Return the dataclass of a type."""
        return self.objects[kind]

    def as_yaml(self, **changes: Any) -> str:
        """Return all options, with changes, as the text of a file that ``--config`` reads."""
        text = yaml.safe_dump({**self.values, **changes}, sort_keys=False, allow_unicode=True, width=1000)
        return f"# Every option of a run, written by {SOFTWARE}; read it with --config.\n{text}"


def parse(command: Command, words: Sequence[str]) -> Parsed:
    """Return what the words of a command line ask for; options win over ``--config``, and that over defaults.

    Raises:
        HelpRequested: The words ask for help.
        ConfigError: An option or a value is unknown, missing or out of range.
    """
    parser = _Parser(command)
    if _LONG_HELP in words or "--help-all" in words:
        raise HelpRequested(parser.format_help())
    if any(word in _SHORT_HELP for word in words):
        raise HelpRequested(parser.short_help())
    typed = parser.typed(words)
    path, is_verbose = typed.pop("config", None), typed.pop("verbose", False)
    from_file = {} if path is None else parser.read_file(path)
    given = {name: value for name, (value, _) in from_file.items()} | typed
    defaults = parser.defaults()
    others = {name: value for name, value in command.defaults(given).items() if name in defaults}
    values = defaults | others | given
    try:
        objects = {kind: kind(**{one.name: values[one.name] for one in fields(kind)}) for kind in command.arguments}
    except ConfigError as error:
        named = re.match(r"\w+", str(error))
        name = named[0] if named else ""
        if name in from_file and name not in typed:
            raise ConfigError(f"{path}, line {from_file[name][1]}: {error}") from error
        raise
    return Parsed(values, objects, is_verbose)


def parser_of(command: Command) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    return _Parser(command)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the paragraphs of the description, shows defaults that say something, and each option once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        # With underscores, as diffusers' scripts write them; hyphens are accepted as well.
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        short_first = sorted(names, key=len)
        takes_none = action.nargs in (0, "?")
        if takes_none and action.default is True:
            short_first.append(f"--no_{action.dest}")
        value = "" if takes_none else f" {self._format_args(action, action.dest.upper())}"
        return f"{', '.join(short_first)}{value}"

    def add_argument(self, action: argparse.Action) -> None:
        if not action.option_strings or not action.option_strings[0].startswith("--no_"):  # shown beside its opposite
            super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, [], argparse.SUPPRESS) or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if action.metavar is None and action.choices is None and action.option_strings:
            kind = "N" if action.type is int else "X" if action.type is float else "TEXT"
            return lambda size: (kind,) * size
        return super()._metavar_formatter(action, default_metavar)


class _Parser(HfArgumentParser):
    """Parser of one command."""

    def __init__(self, command: Command) -> None:
        """Take the options from the fields of the command's dataclasses."""
        self._command = command
        super().__init__(
            command.arguments,  # type: ignore[arg-type]
            prog=f"supreme-init {command.name}",
            description="\n\n".join(filter(None, (command.summary, f"  {command.example}", command.details))),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        if command.positional is not None:
            name, shown_as = command.positional
            self._long = self._option_string_actions[f"--{name}"]
            self.add_argument(f"{name}_first", nargs="*", metavar=shown_as, help=self._long.help)
        self.add_argument(_CONFIG, metavar="FILE", help="A YAML file with any of these options.")
        self.add_argument("-v", "--verbose", action="store_true", help="Also show what other libraries say.")
        self.add_argument(*_SHORT_HELP, action="store_true", help="Show the usual options.")
        self.add_argument(_LONG_HELP, action="store_true", help="Show every option.")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(re.sub(r"^argument (?:-\w/)?(--\w+)[^:]*: ", r"\1: ", message))

    def format_usage(self) -> str:
        positional = self._command.positional
        shown_as = f" {positional[1]} ..." if positional else ""
        return f"usage: {self.prog}{shown_as} [options]\n"

    def format_help(self) -> str:
        """Return the help on every option, by group."""
        self.usage = self.format_usage().removeprefix("usage: ").strip()
        return super().format_help()

    def short_help(self) -> str:
        """Return the help on the usual options."""
        formatter = self._get_formatter()
        formatter.add_text(self.format_usage().strip())
        formatter.add_text(self.description)
        actions = [self._option_string_actions[f"--{name}"] for name in self._command.usual]
        if self._command.positional is not None:
            actions = [one for one in self._actions if not one.option_strings] + actions
        if not actions:
            return formatter.format_help()
        formatter.start_section("the usual options")
        formatter.add_arguments(actions)
        formatter.end_section()
        num_others = len([one for one in self._actions if one.option_strings]) - len(self._command.usual)
        formatter.add_text(f"{self.prog} {_LONG_HELP} shows {num_others} more.")
        return formatter.format_help()

    def defaults(self) -> dict[str, Any]:
        """Return the default of every field."""
        return {
            one.name: self._option_string_actions[f"--{one.name}"].default
            for kind in self._command.arguments
            for one in fields(kind)
        }

    def typed(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the values of the options that were typed."""
        self._check_repetitions(words)
        kept = [(action, action.default) for action in self._actions]
        for action, _ in kept:
            action.default = argparse.SUPPRESS
        try:
            namespace, unknown = self.parse_known_intermixed_args(list(words))
        finally:
            for action, default in kept:
                action.default = default
        typed = vars(namespace)
        if self._command.positional is not None:
            name, shown_as = self._command.positional
            first = typed.pop(f"{name}_first", [])
            if first and name in typed:
                raise ConfigError(f"expected {shown_as} either first or after --{name}, got both")
            if first:
                typed[name] = first if isinstance(self._long.default, list) or len(first) != 1 else first[0]
        options = [word for word in unknown if word.startswith("-")]
        if options:
            raise ConfigError(f"unknown option {options[0]!r}{self._proposal(options[0])}")
        if unknown:
            raise ConfigError(f"expected options, got {unknown[0]!r}; a value with spaces needs quotes")
        return typed

    def read_file(self, path: str) -> dict[str, tuple[Any, int]]:
        """Return the options of a YAML file, each with its value and line.

        Raises:
            ConfigError: The file cannot be read, is no YAML, or has an option or value that is unknown.
        """
        try:
            root = yaml.compose(expanded(path).read_text(encoding="utf-8"), yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config: expected a YAML file, got {path!r} ({one_line(error)})") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}, line {line}: expected YAML, got {error.problem}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: expected YAML ({one_line(error)})") from error
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}, line {root.start_mark.line + 1}: expected options, 'name: value'")
        found: dict[str, tuple[Any, int]] = {}
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value)
            action = self._option_string_actions.get(f"--{key}")
            if action is None or action.dest in ("config", "verbose", "help", "help_all"):
                raise ConfigError(f"{path}, line {line}: unknown option {key!r}{self._proposal(key, dashes='')}")
            if action.dest in found:
                raise ConfigError(f"{path}, line {line}: {key} was given before, in line {found[action.dest][1]}")
            try:
                found[action.dest] = (self._value(action, value_node), line)
            except ConfigError as error:
                raise ConfigError(f"{path}, line {line}: {key}: {one_line(error)}") from error
        return found

    def _value(self, action: argparse.Action, node: yaml.Node) -> Any:
        """Return the value of an option in a YAML file, converted as it would be on the command line.

        The text counts as it stands there: YAML itself would read ``12:30`` as 750 and ``no`` as false.
        """
        if action.nargs == 0:  # the --no_ form of a flag
            raise ConfigError("expected the option without 'no_'")
        takes_many = action.nargs == "+"
        if node.tag == _NULL:
            return [] if takes_many else None
        if isinstance(node, yaml.SequenceNode) and not takes_many:
            raise ConfigError("expected one value, got a list")
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self._one_value(action, one) for one in nodes]
        return values if takes_many else values[0]

    def _one_value(self, action: argparse.Action, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError("expected a plain value, got a list or a mapping; put it in quotes")
        try:
            found = action.type(node.value) if callable(action.type) else node.value
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            kind = getattr(action.type, "__name__", "value")
            kind = "true or false" if kind == "string_to_bool" else f"a value of type {kind}"
            raise ConfigError(f"expected {kind}, got {shown(node.value)}") from error
        if action.choices is not None and found not in action.choices:
            raise ConfigError(f"expected one of {', '.join(map(str, action.choices))}, got {shown(node.value)}")
        return found

    def _check_repetitions(self, words: Sequence[str]) -> None:
        seen = set()
        for word in words:
            action = self._option_string_actions.get(word.split("=")[0]) if word.startswith("-") else None
            if action is not None and action.dest in seen:
                raise ConfigError(f"{word.split('=')[0]} was given more than once; write all its values after one")
            if action is not None:
                seen.add(action.dest)

    def _proposal(self, option: str, dashes: str = "--") -> str:
        """Return what somebody may have meant: an option that looks alike, or a usual one that contains the word."""
        asked = option.lstrip("-").replace("-", "_")
        known = {name[2:] for name in self._option_string_actions if name.startswith("--") and "-" not in name[2:]}
        close = difflib.get_close_matches(asked, known, n=1, cutoff=0.75)
        parts = [name for name in self._command.usual if len(asked) > 3 and asked in name]
        close = close or parts[:1] or difflib.get_close_matches(asked, known, n=1)
        return f"; did you mean {dashes}{close[0]}?" if close else f"; {self.prog} {_LONG_HELP} lists all"
