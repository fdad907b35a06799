"""Ray's own upload (`ray job submit --working-dir .`) leaves out the same secrets as `submit`."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from cluster.ray_tune.upload import SECRETS, is_secret, ray_ignore_lines

ROOT = Path(__file__).parents[3]
NAMES = (
    "tune.py",
    "cluster/study/passwords.py",
    "cluster/launch/aws.yaml",
    "README.md",
    ".env",
    "cluster/.env.local",
    "server.pem",
    "cluster/Server.KEY",
    "a.p12",
    "a.pfx",
    "id_rsa",
    "cluster/ID_ed25519",
    "credentials.json",
    "Credentials",
    "my_secrets.yaml",
    "secrets/plain.txt",
    "secrets/code.py",
    "hf_token",
    "cluster/MyToken",
    "passwords.txt",
    "analysis/Password.csv",
)


def uploaded(folder: Path, target: Path) -> set[str]:
    """The files that Ray itself puts into a job's package."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), target, include_gitignore=True)
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def test_the_ignore_file_has_the_patterns_that_submit_has() -> None:
    lines = (ROOT / ".rayignore").read_text().splitlines()
    start = lines.index(ray_ignore_lines()[0])

    assert lines[start : start + len(SECRETS) + 1] == ray_ignore_lines()


def test_ray_uploads_a_file_only_if_submit_would(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    shutil.copy(ROOT / ".rayignore", folder)

    kept = uploaded(folder, tmp_path / "package.zip")

    assert kept == {name for name in NAMES if not is_secret(Path(name))}
    assert {"tune.py", "cluster/study/passwords.py"} <= kept


@pytest.mark.parametrize("name", ["tests/test_x.py", "docs/page.md", "runs/demo/study.db", ".cache/x.py"])
def test_what_a_job_does_not_need_stays_behind_code_or_not(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "project"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(name)
    (folder / "tune.py").write_text("")
    shutil.copy(ROOT / ".rayignore", folder)

    assert uploaded(folder, tmp_path / "package.zip") == {"tune.py"}
