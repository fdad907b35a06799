"""The Slurm script, run by bash with stand-ins for Slurm, Ray and the search: order, token, clean-up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "launch" / "slurm.sh"
NOTE = 'echo "$(basename "$0") $*" >> "$CALLS"\n'
STAND_INS = {
    "scontrol": NOTE + '[[ $1 != show ]] || printf "one\\ntwo\\nthree\\n"',
    "srun": NOTE + 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": """
if [[ $1 == status ]]; then [[ -e $CALLS.head ]]; exit; fi
[[ $(stat -c %a "$RAY_AUTH_TOKEN_PATH") == 600 && -s $RAY_AUTH_TOKEN_PATH ]] || echo "no token" >> "$CALLS"
[[ $HEAD_FAILS ]] && exit 1
[[ " $* " == *" --head "* ]] && echo $$ > "$CALLS.head"
trap 'echo "ray down" >> "$CALLS"; exit 0' TERM
echo "ray up" >> "$CALLS"
while :; do sleep 0.05; done""",
    "python": NOTE
    + """
case "$*" in
    *secrets*) echo -n 0123456789abcdef ;;
    *ray.util*) echo 127.0.0.1 ;;
    *tune.py*)
        until [[ $(grep -c "ray up" "$CALLS") == 2 ]]; do sleep 0.05; done
        [[ $SEARCH != long ]] && exit "$SEARCH"
        trap 'exit 130' TERM
        touch "$CALLS.searching"
        while :; do sleep 0.05; done ;;
esac""",
}


def start(folder: Path, **settings: str) -> subprocess.Popen[str]:
    (folder / "bin").mkdir()
    for name, lines in STAND_INS.items():
        path = folder / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
        path.chmod(0o755)
    environment: Mapping[str, str] = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "CALLS": str(folder / "calls"),
        "UNFREEZE_BIN": str(folder / "bin"),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "1234",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_JOB_NODELIST": "[one-three]",
        "SEARCH": "0",
        "HEAD_FAILS": "",
        **settings,
    }
    command = ["bash", str(SCRIPT), "--space", "bit", "--study", "two words"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(script: subprocess.Popen[str]) -> str:
    _, errors = script.communicate(timeout=60)
    return errors


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.05)


def test_the_head_starts_first_then_the_workers_then_the_search_and_all_end(tmp_path: Path) -> None:
    script = start(tmp_path)

    errors = finish(script)

    calls = (tmp_path / "calls").read_text().splitlines()
    assert script.returncode == 0, errors
    head, workers = (line for line in calls if line.startswith("srun"))
    assert "--nodelist=one" in head and "start --head" in head and "--port=20936" in head
    assert "--nodes=2 --ntasks=2" in workers and "--exclude=one" in workers
    assert "start --address=127.0.0.1:20936" in workers
    search = "python tune.py --address 127.0.0.1:20936 --space bit --study two words"
    assert calls.index(head) < calls.index("ray up") < calls.index(search)
    assert calls.count("ray up") == calls.count("ray down") == 2
    assert not list((tmp_path / ".unfreeze").iterdir()), "the token is still there"
    assert "no token" not in calls


@pytest.mark.parametrize("code", ["1", "2"])
def test_the_job_ends_with_the_exit_code_of_the_search(tmp_path: Path, code: str) -> None:
    script = start(tmp_path, SEARCH=code)

    finish(script)

    assert script.returncode == int(code)
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_near_the_time_limit_the_search_stops_cleanly_and_the_job_is_queued_again(tmp_path: Path) -> None:
    script = start(tmp_path, SEARCH="long")
    wait_for(tmp_path / "calls.searching")

    script.send_signal(signal.SIGUSR1)
    finish(script)

    calls = (tmp_path / "calls").read_text().splitlines()
    assert script.returncode == 130
    assert "scontrol requeue 1234" in calls
    assert calls.count("ray down") == 2


def test_a_cancelled_job_stops_and_is_not_queued_again(tmp_path: Path) -> None:
    script = start(tmp_path, SEARCH="long")
    wait_for(tmp_path / "calls.searching")

    script.send_signal(signal.SIGTERM)
    finish(script)

    assert script.returncode == 130
    assert "requeue" not in (tmp_path / "calls").read_text()
    assert not list((tmp_path / ".unfreeze").iterdir())


def test_a_head_that_does_not_start_is_told_and_ends_the_job(tmp_path: Path) -> None:
    script = start(tmp_path, HEAD_FAILS="yes")

    errors = finish(script)

    assert script.returncode == 1
    assert "Ray's head did not start on one" in errors
    assert "tune.py" not in (tmp_path / "calls").read_text()


def test_a_head_that_is_lost_ends_the_job_instead_of_a_search_that_waits_for_ever(tmp_path: Path) -> None:
    script = start(tmp_path, SEARCH="long")
    wait_for(tmp_path / "calls.searching")

    os.kill(int((tmp_path / "calls.head").read_text()), signal.SIGKILL)
    errors = finish(script)

    assert script.returncode == 1
    assert "Ray's head ended before the search did; the same line continues it" in errors


def test_without_an_installation_the_way_out_is_told(tmp_path: Path) -> None:
    script = start(tmp_path, UNFREEZE_BIN=str(tmp_path / "nowhere"))

    errors = finish(script)

    assert script.returncode == 2
    assert "run make install there, or set UNFREEZE_BIN" in errors
