"""The command `python -m cluster`: a rehearsal on this machine, and jobs on any Ray cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.machine import count_cpus
from cluster.rehearsal.record import default_state_dir, find_process, read_record
from cluster.study.passwords import without_password


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 it could not be done, 2 the flags are wrong; submit and logs: the job's."""
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows `--` is tune.py's: argparse would take its flags for its own.
    cut = words.index("--") if "--" in words else len(words)
    flags = make_parser().parse_args(words[:cut])
    flags.tune_flags = words[cut + 1 :]
    command: Callable[[argparse.Namespace], int] = flags.run
    try:
        return command(flags)
    except (ValueError, OSError) as error:
        print(f"error: {without_password(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    from cluster.jobs import commands as job_commands

    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = _add(commands, "up", _up, "start a cluster of several Ray nodes on this machine")
    up.add_argument(
        "--nodes", type=_positive, default=3, metavar="N", help="nodes in all, the head among them [3]"
    )
    up.add_argument("--cpus-per-node", type=_positive, metavar="N", help="[an even share of this machine's]")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on [loopback only]")
    _add(commands, "status", _status, "the cluster that `up` started: its address and its nodes")
    _add(
        commands, "env", _env, "print what ray's own commands need to reach it: eval $(python -m cluster env)"
    )
    add_node = _add(commands, "add-node", _add_node, "start one more node")
    add_node.add_argument("--cpus", type=_positive, metavar="N", help="[as many as the head has]")
    kill_node = _add(commands, "kill-node", _kill_node, "kill a node as a power cut would; 0 is the head")
    kill_node.add_argument("node", type=int, metavar="NODE")
    _add(commands, "down", _down, "end the cluster that `up` started, and no other")
    job_commands.add_commands(commands)
    for command in {id(one): one for one in commands.choices.values()}.values():
        command.add_argument(
            "--state-dir",
            type=Path,
            default=None,
            metavar="DIR",
            help="where `up` keeps its record [~/.unfreeze]",
        )
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    line: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=line, description=line)
    command.set_defaults(run=run)
    return command


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {value!r}")
    return int(value)


def _state_dir(flags: argparse.Namespace) -> Path:
    given: Path | None = flags.state_dir
    return (given or default_state_dir()).expanduser().absolute()


def _up(flags: argparse.Namespace) -> int:
    from cluster.rehearsal.local_cluster import start_cluster

    record = start_cluster(
        num_nodes=flags.nodes,
        cpus_per_node=flags.cpus_per_node or max(1, count_cpus() // flags.nodes),
        state_dir=_state_dir(flags),
        host=flags.host,
        say=lambda line: print(line, flush=True),
    )
    print(f"{flags.nodes} nodes are up, with {record.nodes[0].cpus} CPUs each")
    print("submit a search: python -m cluster submit -- --space demo --data digits --runs-dir /shared/runs")
    print("end the cluster: python -m cluster down")
    return 0


def _status(flags: argparse.Namespace) -> int:
    from cluster.rehearsal.local_cluster import alive_nodes

    record = _record(flags)
    print(f"{record.address} (tune.py --address {record.host}:{record.gcs_port})")
    for node in record.nodes:
        state = "running" if find_process(node) else "ended"
        name = "head" if node.number == 0 else f"node {node.number}"
        print(f"{name:8} {state:8} {node.cpus} CPUs, process {node.pid}")
    print(f"{len(alive_nodes(record))} nodes have joined")
    return 0


def _env(flags: argparse.Namespace) -> int:
    for name, value in _record(flags).environment().items():
        print(f"export {name}={value}")
    return 0


def _add_node(flags: argparse.Namespace) -> int:
    from cluster.rehearsal.local_cluster import add_node

    record = _record(flags)
    record = add_node(record, cpus=flags.cpus or record.nodes[0].cpus)
    print(f"node {record.nodes[-1].number} has joined")
    return 0


def _kill_node(flags: argparse.Namespace) -> int:
    from cluster.rehearsal.local_cluster import kill_node

    kill_node(_record(flags), flags.node)
    print(f"node {flags.node} is killed")
    return 0


def _down(flags: argparse.Namespace) -> int:
    from cluster.rehearsal.local_cluster import stop_cluster

    record = read_record(_state_dir(flags))
    if record is None:
        print("no cluster is up")
        return 0
    stop_cluster(record)
    print(f"the cluster at {record.address} has ended")
    return 0


def _record(flags: argparse.Namespace):  # type: ignore[no-untyped-def]
    record = read_record(_state_dir(flags))
    if record is None:
        raise ValueError("no cluster is up: python -m cluster up")
    return record


if __name__ == "__main__":
    sys.exit(main())
