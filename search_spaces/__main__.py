"""The command `python -m search_spaces`: all spaces, one as a table, or the published systems as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from contract.environment import prepare_process
from search_spaces import describe, load_space, make_table, names
from search_spaces._systems import list_systems


def main(argv: Sequence[str] | None = None) -> int:
    prepare_process()
    parser = argparse.ArgumentParser(prog="python -m search_spaces", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every space with its summary")
    show = commands.add_parser("show", help="one space as a table")
    show.add_argument("space")
    systems = commands.add_parser("systems", help="published systems and the recipes that run them")
    systems.add_argument("--max-epochs", type=int, help="budget of their configurations")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "list":
            print_spaces()
        elif arguments.command == "show":
            print_space(arguments.space)
        else:
            print(json.dumps(list_systems(arguments.max_epochs)))
    except ValueError as error:
        print(f"search_spaces: {error}", file=sys.stderr)
        return 2
    return 0


def print_spaces() -> None:
    for name in names():
        space = load_space(name)
        rows, _ = describe(space, backbones=space.backbones, max_epochs=2)
        print(f"{name:20} {len(space.backbones):3} backbones, {len(rows):2} hyperparameters. {space.summary}")


def print_space(name: str) -> None:
    space = load_space(name)
    budget = space.defaults.max_epochs or 10
    Console(markup=False, emoji=False).print(make_table(space, backbones=space.backbones, max_epochs=budget))


if __name__ == "__main__":
    sys.exit(main())
