"""The job commands of `python -m cluster`: submit, jobs, logs, stop, fetch."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.jobs.server import JobServer, find_token
from cluster.rehearsal.record import default_state_dir, read_record

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where Ray's own commands put a job server."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    submit = _add(commands, "submit", _submit, "run tune.py on a cluster: submit -- <tune.py's flags>")
    submit.add_argument("--detach", action="store_true", help="do not wait for the job's end")
    submit.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the job, with its value here or another: --env AWS_PROFILE; not for secrets",
    )
    _add(commands, "jobs", _jobs, "the jobs of the cluster, the latest first")
    logs = _add(commands, "logs", _logs, "follow a job's log to its end")
    stop = _add(commands, "stop", _stop, "ask a job to end after its running epochs")
    for command in (logs, stop):
        command.add_argument("job", metavar="JOB", help="the id that submit and jobs print")
    fetch = _add(commands, "fetch", _fetch, "copy a study from the cluster to this machine")
    fetch.add_argument("study", metavar="STUDY", help="its directory on the cluster, or with --from its name")
    fetch.add_argument(
        "--from", dest="job", metavar="JOB", help="take the directory from this job's --runs-dir"
    )
    fetch.add_argument(
        "--to", type=Path, default=Path("runs"), metavar="DIR", help="folder for the copy [runs]"
    )


def _add(commands: Any, name: str, run: Any, line: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=line, description=line)
    command.set_defaults(run=run)
    command.add_argument(
        "--address",
        metavar="URL",
        help=f"the cluster's job server [$RAY_API_SERVER_ADDRESS, what `up` has started, {DEFAULT_ADDRESS}]",
    )
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the cluster's token [as Ray finds it]"
    )
    return command


def open_server(flags: argparse.Namespace) -> JobServer:
    """The addressed cluster; its token is what Ray would take, or the rehearsal's own."""
    import os

    record = read_record((flags.state_dir or default_state_dir()).expanduser().absolute())
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
