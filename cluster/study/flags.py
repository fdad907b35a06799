"""Command lines made from the fields of a configuration and their docstrings."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cluster.study.config import StudyConfig
from cluster.study.finalize_config import FinalizeConfig
from cluster.study.passwords import without_password
from contract.files import did_you_mean


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without passwords."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {without_password(message)}\n")
        sys.exit(2)


def parse_flags(argv: Sequence[str] | None = None, *, prog: str = "tune.py") -> StudyConfig:
    """The StudyConfig of a command line; a wrong flag ends the program with one line and exit code 2."""
    return _parse(make_parser(prog), StudyConfig, argv)


def parse_finalize_flags(argv: Sequence[str] | None = None) -> FinalizeConfig:
    """The FinalizeConfig of a command line; a wrong flag ends the program as with `parse_flags`."""
    return _parse(make_finalize_parser(), FinalizeConfig, argv)


def make_parser(prog: str) -> argparse.ArgumentParser:
    return _make_parser(
        prog,
        StudyConfig,
        description="Find the best way to fine-tune a pretrained image classifier on your images.",
        epilog="Run the same command again to continue an interrupted study.",
    )


def make_finalize_parser() -> argparse.ArgumentParser:
    return _make_parser(
        "finalize.py",
        FinalizeConfig,
        description="Make one model of a study's trials, with a score that can be believed.",
        epilog="Run the same command again to continue; what was trained is not trained again.",
        positional=("study",),
    )


C = TypeVar("C")


def _parse(parser: argparse.ArgumentParser, config: Callable[..., C], argv: Sequence[str] | None) -> C:
    given = sys.argv[1:] if argv is None else list(argv)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in given:  # before argparse complains that --space is missing because it was misspelt
        flag = word.split("=")[0]
        if flag.startswith("--") and flag not in known:
            hint = did_you_mean(flag, known, before="; ")
            parser.error(f"unknown argument {flag}{hint} (--help lists them all)")
    values, unknown = parser.parse_known_args(given)
    if unknown:
        parser.error(f"unknown argument {unknown[0]} (--help lists them all)")
    try:
        return config(**vars(values))
    except ValueError as error:
        parser.error(str(error))


def _make_parser(
    prog: str, config: type, *, description: str, epilog: str, positional: Sequence[str] = ()
) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        # By default the help starts so far to the right that it wraps every few words.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
    )
    docs, hints = field_docs(config), typing.get_type_hints(config)
    for field in fields(config):
        if field.name in positional:
            parser.add_argument(field.name, metavar=field.name.upper(), help=docs[field.name])
        else:
            _add_flag(parser, field, hint=hints[field.name], doc=docs[field.name])
    return parser


def field_docs(owner: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, by field name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        is_field = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        is_doc = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if is_field and is_doc:
            docs[line.target.id] = str(below.value.value)  # type: ignore[attr-defined]
    return docs


def _add_flag(parser: argparse.ArgumentParser, field: Field[Any], *, hint: Any, doc: str) -> None:
    flag = "--" + field.name.replace("_", "-")
    help_text = doc.replace("%", "%%")
    if hint is bool:
        parser.add_argument(flag, action="store_true", help=help_text)
        return
    required = field.default is MISSING
    if not required and field.default not in (None, ()):
        help_text += f" [{field.default}]"
    kind = _value_type(hint)
    options: dict[str, Any] = {"nargs": "+"} if typing.get_origin(hint) is tuple else {}
    metavar = {int: "N", float: "X", Path: "DIR"}.get(kind, field.name.upper().split("_")[0])
    default = None if required else field.default
    parser.add_argument(
        flag, type=kind, required=required, default=default, metavar=metavar, help=help_text, **options
    )


def _value_type(hint: Any) -> Any:
    """Type of one value: int for `int | None`, str for `tuple[str, ...]`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) in (typing.Union, tuple):
        hint = next(arg for arg in typing.get_args(hint) if arg not in (type(None), ...))
    return str if typing.get_origin(hint) is typing.Literal else hint
