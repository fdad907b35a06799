"""A client of a Ray cluster's job server, which turns every refusal into one line."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp
import requests

from cluster.study.passwords import without_password

PROBE_SECONDS = 10.0
"""Longest wait, in seconds, for the answer to a small question."""

SILENT_SECONDS = 60.0
"""A download that brings nothing for this long is given up."""

DOWNLOAD_SECONDS = 3600
"""Seconds that Ray may take to hand out one file; its own default is half a minute."""


class JobServerError(ValueError):
    """The cluster cannot be reached, or refuses; the message says what to do."""


class JobServer:
    """One cluster's job server; the first method call opens the connection."""

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self.address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
        self.shown = without_password(self.address, whole=True)
        """The address as it may be printed."""
        self._headers = {"Authorization": f"Bearer {token.strip()}"} if token else {}
        self._client: Any = None

    def check(self) -> None:
        """Compare Ray's version there with the one here.

        Raises:
            JobServerError: nobody answers, the token is refused, or Ray's version there is another.
        """
        import ray

        there = self._get("/api/version").get("ray_version", "unknown")
        if there != ray.__version__:
            raise JobServerError(
                f"the cluster at {self.shown} runs Ray {there}, this environment Ray {ray.__version__}: "
                "install the same on both (constraints.txt has the version that was tested)"
            )

    def alive_nodes(self) -> set[str]:
        """List the ids of the nodes that the cluster believes to be alive."""
        nodes = self._get("/api/v0/nodes")["data"]["result"]["result"]
        return {node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def submit(self, entrypoint: str, *, runtime_env: Mapping[str, Any], job: str | None = None) -> str:
        """Upload the working directory unless it is there already, start a job, and return its id."""
        with self._explained():
            submitted: str = self._connect().submit_job(
                entrypoint=entrypoint, runtime_env=dict(runtime_env), submission_id=job
            )
        return submitted

    def jobs(self) -> list[Any]:
        """List Ray's details of every submitted job, the latest first; `start_time` is Unix time in ms."""
        with self._explained():
            listed = [job for job in self._connect().list_jobs() if job.submission_id]
        return sorted(listed, key=lambda job: -(job.start_time or 0))

    def job(self, job: str) -> Any:
        with self._explained():
            return self._connect().get_job_info(job)

    def log(self, job: str) -> str:
        with self._explained():
            return str(self._connect().get_job_logs(job))

    async def follow(self, job: str) -> AsyncGenerator[str, None]:
        """The job's log as it grows, in pieces, until the job ends."""
        with self._explained():
            async for text in self._connect().tail_job_logs(job):
                yield text

    def download(self, name: str, *, node_id: str, target: IO[bytes]) -> None:
        """Copy a file of a node's log folder, whatever it holds and however large it is."""
        wanted = {"node_id": node_id, "filename": name, "lines": "-1", "timeout": str(DOWNLOAD_SECONDS)}
        with (
            self._explained(),
            requests.get(
                f"{self.address}/api/v0/logs/file",
                params=wanted,
                headers=self._headers,
                timeout=SILENT_SECONDS,
                stream=True,
            ) as answer,
        ):
            if not answer.ok:
                raise JobServerError(
                    f"{self.shown} does not hand out {name}: it answers {answer.status_code}"
                )
            for data in answer.iter_content(2**20):
                target.write(data)

    def stop(self, job: str) -> bool:
        """Ask the job to end; False when it had ended already."""
        with self._explained():
            return bool(self._connect().stop_job(job))

    def _connect(self) -> Any:
        if self._client is None:
            from ray.job_submission import JobSubmissionClient

            self.check()
            for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # they would win over the address
                os.environ.pop(name, None)
            # They tell of each upload and each closed connection.
            for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
                logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
            logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
            self._client = JobSubmissionClient(self.address, headers=dict(self._headers))
        return self._client

    def _get(self, path: str) -> dict[str, Any]:
        with self._explained():
            answer = requests.get(self.address + path, headers=self._headers, timeout=PROBE_SECONDS)
        if answer.status_code in (401, 403):
            raise self._refused()
        if not answer.ok:
            raise JobServerError(f"{self.shown} is no Ray job server: it answers {answer.status_code}")
        try:
            content: dict[str, Any] = answer.json()
        except ValueError:
            raise JobServerError(f"{self.shown} is no Ray job server") from None
        return content

    def _refused(self) -> JobServerError:
        given = "the token is not this cluster's" if self._headers else "it wants a token"
        return JobServerError(
            f"the cluster at {self.shown} refuses: {given}; pass --token-file FILE, "
            "or set RAY_AUTH_TOKEN_PATH"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise self._refused() from None
        except (requests.exceptions.RequestException, aiohttp.ClientError, OSError):
            raise JobServerError(
                f"no cluster answers at {self.shown}: check the address (a rehearsal on this machine "
                "starts with `python -m cluster up`)"
            ) from None
        except RuntimeError as error:
            if "closed unexpectedly" in str(error):
                raise JobServerError(f"the connection to {self.shown} broke") from None
            raise JobServerError(_one_line(without_password(str(error)))) from None


def find_token(given: Path | None, recorded: Path | None) -> str | None:
    """The token that Ray would use: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    The file `given` by --token-file comes before these, and after it `recorded`, that of the addressed
    rehearsal.

    Raises:
        ValueError: the given file does not exist.
    """
    if given is None and recorded is None and os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = given or recorded or (Path(named) if named else Path.home() / ".ray" / "auth_token")
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    if given is not None:
        raise ValueError(f"--token-file {given} does not exist")
    return None


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return f"{lines[0]} … {lines[-1]}" if len(lines) > 1 else (lines or ["the cluster refuses"])[0]
