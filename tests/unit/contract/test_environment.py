"""The environment that a process is started in: terminal, proxies, home, folders of other users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract import environment
from contract.environment import (
    LOOPBACK,
    give_home,
    loopback_without_proxy,
    make_private,
    usual_cache_dir,
    why_not_writable,
)
from tests.other_user import STRANGER, call_as, needs_root, open_way

ROOT = Path(__file__).parents[3]
PRINT = """
import sys
from contract.environment import prepare_process
prepare_process()
from rich.console import Console
from rich.table import Table
names = ["tulip\\u00e1n \\u56fe", "caf\\udce9.png"]
print(*names)
print(*names, file=sys.stderr)
table = Table("na\\u00efve")
for name in names:
    table.add_row(name)
Console(markup=False).print(table)
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONUTF8": "1"},
    ],
)
def test_no_name_ends_a_program_that_its_terminal_cannot_show(settings: dict[str, str]) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}

    shown = subprocess.run(
        [sys.executable, "-c", PRINT], cwd=ROOT, env=kept | settings, capture_output=True, check=False
    )

    assert shown.returncode == 0, shown.stderr
    assert b".png" in shown.stdout
    assert b".png" in shown.stderr


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_requests_to_this_machine_go_through_no_proxy(variable: str) -> None:
    found = loopback_without_proxy({variable: "http://proxy:3128", "NO_PROXY": "intranet, localhost"})

    assert found["no_proxy"] == found["NO_PROXY"]
    assert found["no_proxy"].split(",") == ["intranet", "localhost", "127.0.0.1", "::1"]
    assert set(LOOPBACK) <= set(found["no_proxy"].split(","))


def test_without_a_proxy_or_for_all_hosts_nothing_is_set() -> None:
    assert not loopback_without_proxy({})
    assert not loopback_without_proxy({"http_proxy": "http://proxy:3128", "no_proxy": "*"})


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("UNFREEZE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert usual_cache_dir() == Path("/home/me/.cache/unfreeze")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert usual_cache_dir() == Path("/home/me/.cache/unfreeze")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/me")
    assert usual_cache_dir() == Path("/scratch/me/unfreeze")
    monkeypatch.setenv("UNFREEZE_CACHE", "~/photos cache")
    assert usual_cache_dir() == Path("/home/me/photos cache")


@needs_root
def test_a_user_whom_the_system_does_not_know_gets_a_name_and_a_home() -> None:
    def ask() -> str:
        os.environ.pop("HOME", None)
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            os.environ.pop(name, None)
        give_home()
        import getpass

        return f"{getpass.getuser()} {Path('~').expanduser()}"

    told = call_as(STRANGER, ask)

    assert told.startswith(f"uid{STRANGER} /")
    assert told.endswith(f"unfreeze-{STRANGER}")


@needs_root
def test_a_folder_that_another_user_made_is_said_to_be_unwritable(tmp_path: Path) -> None:
    cache = open_way(tmp_path) / "cache"
    (cache / "images").mkdir(parents=True)
    tmp_path.chmod(0o1777)

    assert call_as(STRANGER, lambda: why_not_writable(cache)) == f"{cache} cannot be written"
    cache.chmod(0o1777)
    assert call_as(STRANGER, lambda: why_not_writable(cache)) == ""
    inner = call_as(STRANGER, lambda: why_not_writable(cache, below=("images", "activations")))
    assert inner == f"{cache / 'images'} cannot be written"
    cache.chmod(0o700)
    assert call_as(STRANGER, lambda: why_not_writable(cache / "images")) != ""


def test_a_folder_to_be_made_is_judged_by_the_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    assert why_not_writable(tmp_path / "a" / "b") == ""
    assert why_not_writable(tmp_path / "file" / "b") == f"{tmp_path / 'file'} is no folder"
    assert why_not_writable(tmp_path / "link") == f"{tmp_path / 'link'} is a link to nothing"


def test_a_private_folder_is_the_users_alone(tmp_path: Path) -> None:
    folder = make_private(tmp_path / "mine")

    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(PermissionError, match="another user"):
        make_private(tmp_path / "link")


@needs_root
def test_a_private_folder_that_another_user_has_made_is_not_used(tmp_path: Path) -> None:
    taken = open_way(tmp_path) / "taken"
    taken.mkdir(mode=0o777)

    assert "belongs to another user" in call_as(STRANGER, lambda: environment.make_private(taken))
