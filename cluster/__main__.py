"""The command `python -m cluster`: a rehearsal cluster on this machine, and jobs on any Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from cluster.jobs.server import JobServer, find_token
from cluster.rehearsal.record import ClusterRecord, default_state_dir, find_process, read_record
from cluster.study.passwords import without_password
from contract.environment import prepare_process
from contract.machine import count_cpus

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Address at which Ray's own commands start a job server."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 wrong flags, 130 interrupted; submit and logs give the job's own."""
    prepare_process()
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
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_rehearsal_commands(commands)
    _add_job_commands(commands)
    for command in {id(one): one for one in commands.choices.values()}.values():
        command.add_argument(
            "--state-dir",
            type=Path,
            default=None,
            metavar="DIR",
            help="where `up` keeps its record [~/.unfreeze]",
        )
    return parser


def _add_rehearsal_commands(commands: _Commands) -> None:
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


def _add_job_commands(commands: _Commands) -> None:
    submit = _add_job_command(
        commands, "submit", _submit, "run tune.py on a cluster: submit -- <tune.py's flags>"
    )
    submit.add_argument("--detach", action="store_true", help="do not wait for the job's end")
    submit.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the job, with its value here or another: --env AWS_PROFILE; not for secrets",
    )
    _add_job_command(commands, "jobs", _jobs, "the jobs of the cluster, the latest first")
    logs = _add_job_command(commands, "logs", _logs, "follow a job's log to its end")
    stop = _add_job_command(commands, "stop", _stop, "ask a job to end after its running epochs")
    for command in (logs, stop):
        command.add_argument("job", metavar="JOB", help="the id that submit and jobs print")
    fetch = _add_job_command(commands, "fetch", _fetch, "copy a study from the cluster to this machine")
    fetch.add_argument("study", metavar="STUDY", help="its directory on the cluster, or with --from its name")
    fetch.add_argument(
        "--from", dest="job", metavar="JOB", help="take the directory from this job's --runs-dir"
    )
    fetch.add_argument(
        "--to", type=Path, default=Path("runs"), metavar="DIR", help="folder for the copy [runs]"
    )


def _add_job_command(
    commands: _Commands, name: str, run: Callable[[argparse.Namespace], int], line: str
) -> argparse.ArgumentParser:
    command = _add(commands, name, run, line)
    command.add_argument(
        "--address",
        metavar="URL",
        help=f"the cluster's job server [$RAY_API_SERVER_ADDRESS, what `up` has started, {DEFAULT_ADDRESS}]",
    )
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the cluster's token [as Ray finds it]"
    )
    return command


def _add(
    commands: _Commands, name: str, run: Callable[[argparse.Namespace], int], line: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=line, description=line)
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


def _record(flags: argparse.Namespace) -> ClusterRecord:
    record = read_record(_state_dir(flags))
    if record is None:
        raise ValueError("no cluster is up: python -m cluster up")
    return record


def open_server(flags: argparse.Namespace) -> JobServer:
    """The addressed cluster, with the token that Ray would use, or the rehearsal's own."""
    record = read_record(_state_dir(flags))
    address = flags.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None:
        address = record.address if record else DEFAULT_ADDRESS
    is_rehearsal = record is not None and address.rstrip("/") == record.address
    recorded = record.token_file if record is not None and is_rehearsal else None
    return JobServer(address, token=find_token(flags.token_file, recorded))


def _submit(flags: argparse.Namespace) -> int:
    from cluster.jobs.submission import follow_job, read_variables, submit_search

    server = open_server(flags)
    try:
        variables = read_variables(flags.env)
        job = submit_search(server, flags.tune_flags, variables=variables, say=_say)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _say(f"submitted {job} to {server.shown}")
    if flags.detach:
        _say(f"follow it: python -m cluster logs {job}\nstop it: python -m cluster stop {job}")
        return 0
    return follow_job(server, job)


def _jobs(flags: argparse.Namespace) -> int:
    for job in open_server(flags).jobs():
        began = datetime.fromtimestamp((job.start_time or 0) / 1000).isoformat(" ", "seconds")
        print(f"{job.submission_id}  {getattr(job.status, 'value', job.status):9}  {began}  {job.entrypoint}")
    return 0


def _logs(flags: argparse.Namespace) -> int:
    from cluster.jobs.submission import follow_job

    server = open_server(flags)
    server.job(flags.job)  # an unknown one is named here
    return follow_job(server, flags.job)


def _stop(flags: argparse.Namespace) -> int:
    from cluster.jobs.submission import STOP_SECONDS

    if open_server(flags).stop(flags.job):
        print(f"{flags.job} ends after its running epochs, at the latest in {STOP_SECONDS} s")
    else:
        print(f"{flags.job} had ended already")
    return 0


def _fetch(flags: argparse.Namespace) -> int:
    from cluster.jobs.fetch import fetch_study

    target = fetch_study(
        open_server(flags), flags.study, job=flags.job, folder=flags.to.expanduser().absolute()
    )
    print(f"copied to {target}\nlook at it: python -m analysis leaderboard {target}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
