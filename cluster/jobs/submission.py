"""Submits a search to a Ray cluster as a job, and follows its log."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from cluster.jobs.flags import check_job_flags
from cluster.jobs.server import JobServer, JobServerError
from cluster.ray_tune.upload import list_untracked, staged_project
from cluster.study.passwords import has_password

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
SECRET_NAMES = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL", "_KEY")
"""Parts of the names of variables that hold secrets."""

STOP_SECONDS = 120
"""Seconds that a stopped job may take to finish its running epochs."""


def submit_search(
    server: JobServer, tune_flags: Sequence[str], *, variables: Mapping[str, str], say: Callable[[str], None]
) -> str:
    """Check the flags, upload the code, start tune.py on the cluster, and give the job's id.

    Raises:
        ValueError: the flags are wrong, or the cluster or the upload fails; nothing was started.
    """
    config = check_job_flags(tune_flags)
    server.check()
    left = list_untracked()
    if left:
        named = ", ".join(str(path) for path in left[:3]) + (" …" if len(left) > 3 else "")
        say(f"not uploaded, since git does not track it: {named}")
    environment = {
        # A stopped job gets the signal of Ctrl-C and the time to end its running epochs.
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }
    with staged_project() as folder:
        return server.submit(
            f"python tune.py {shlex.join(tune_flags)}",
            runtime_env={"working_dir": str(folder), "env_vars": environment | dict(variables)},
            job=f"{_plain(config.name)}-{secrets.token_hex(3)}",
        )


def read_variables(given: Sequence[str]) -> dict[str, str]:
    """Parse variables from words NAME=VALUE, or NAME for the value that it has in this process.

    Raises:
        ValueError: NAME is not set here, or looks like that of a secret, or its value holds a password: Ray
            writes a job's variables into its logs.
    """
    variables = {}
    for word in given:
        name, has_value, value = word.partition("=")
        if any(part in name.upper() for part in SECRET_NAMES):
            raise ValueError(_describe_secret(name))
        if not has_value and name not in os.environ:
            raise ValueError(f"--env {name}: not set here; set it, or pass {name}=VALUE")
        variables[name] = value if has_value else os.environ[name]
        if has_password(variables[name]):
            raise ValueError(_describe_secret(name))
    return variables


def _describe_secret(name: str) -> str:
    return (
        f"--env {name}: Ray writes a job's variables into its logs; "
        "set it where the cluster's nodes are started"
    )


def follow_job(server: JobServer, job: str, *, out: TextIO | None = None) -> int:
    """Print the job's log until it ends, and give its exit code.

    After the second Ctrl-C the code is 130, and the job goes on.
    """
    try:
        asyncio.run(_print_log(server, job, out or sys.stdout))
        return wait_for_end(server, job)
    except _Detached:
        _tell(f"not followed any more; the job goes on: python -m cluster logs {job}")
        return 130
    except JobServerError as error:
        raise JobServerError(
            f"{error}. What the search has done is in its study: submit the same again to continue"
        ) from None


def wait_for_end(server: JobServer, job: str) -> int:
    """Wait for the end of a job whose log has ended, and give its exit code; 130 if it was stopped."""
    while (details := server.job(job)).status not in ENDED:
        time.sleep(0.5)
    status = str(getattr(details.status, "value", details.status))
    if status == "FAILED" and details.driver_exit_code is None:
        _tell(f"error: job {job} did not start: {_last_line(details.message)}")
    if status == "STOPPED":
        _tell(f"job {job} was stopped; submit the same again to continue")
        return 130
    code = details.driver_exit_code
    return int(status != "SUCCEEDED") if code is None else int(code)


class _Detached(Exception):
    """The user does not want to follow any longer."""


async def _print_log(server: JobServer, job: str, out: TextIO) -> None:
    interrupts = 0
    reading = asyncio.ensure_future(_copy(server, job, out))

    def interrupted() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            _tell(
                f"\nCtrl-C again stops following; the job goes on. To stop it: python -m cluster stop {job}"
            )
        else:
            reading.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        await reading
    except asyncio.CancelledError:
        raise _Detached from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _copy(server: JobServer, job: str, out: TextIO) -> None:
    async for text in server.follow(job):
        out.write(text)
        out.flush()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _plain(name: str) -> str:
    """The study's name with only characters that a job's id may have."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(name).name)


def _last_line(message: str | None) -> str:
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
