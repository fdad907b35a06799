"""The upload of a job to a cluster: the project's own code, and nothing else of its folder."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).resolve().parents[2]
CODE = ("contract", "search_spaces", "trainables", "cluster", "analysis", "wiring", "benchmarks")
MODULES = ("tune.py", "finalize.py", "pyproject.toml")
SECRETS = (
    ".?*",  # not ".*", by which .rayignore would leave out the project's own folder, "."
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_*",
    "credentials*",
    "*secret*",
    "*token",
    "*password*",
)
LIMIT_BYTES = 50 * 2**20
"""Most bytes of an upload: Ray's job server takes 100 MiB, and the code has less than 2."""


@contextmanager
def staged_project(project: Path = PROJECT) -> Iterator[Path]:
    """A temporary copy of what a job needs, for Ray to upload."""
    with TemporaryDirectory(prefix="unfreeze-upload-") as folder:
        for path in list_upload(project):
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / path, target)
        yield Path(folder)


def list_upload(project: Path = PROJECT) -> list[Path]:
    """The packages' files that git tracks, relative to the project, except those that look secret.

    Raises:
        ValueError: they are too many bytes to be code.
    """
    known = _tracked(project)
    paths = sorted(_all_files(project) if known is None else known)
    paths = [path for path in paths if not is_secret(path) and (project / path).is_file()]
    sizes = {path: (project / path).stat().st_size for path in paths}
    if sum(sizes.values()) > LIMIT_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise ValueError(
            f"the project's code has {sum(sizes.values()) / 2**20:.0f} MiB, more than the "
            f"{LIMIT_BYTES >> 20} that are uploaded: remove from git what is no code, first {named}"
        )
    return paths


def list_untracked(project: Path = PROJECT) -> list[Path]:
    """List the packages' Python files that are not uploaded, because git does not track them yet."""
    if _tracked(project) is None:
        return []
    found = _git(project, "ls-files", "--others", "--exclude-standard", *CODE)
    return [Path(name) for name in found or [] if name.endswith(".py")]


def is_secret(path: Path) -> bool:
    """True if the name of the file, or of a folder that it is in, is one that secrets have; code is none."""
    names = path.parts if path.suffix != ".py" else path.parts[:-1]
    return any(fnmatch.fnmatch(name.lower(), pattern) for name in names for pattern in SECRETS)


def ray_ignore_lines() -> list[str]:
    """Write the lines of a .rayignore with which Ray's own upload leaves out the same secrets.

    Its patterns are those of .gitignore, which tell capitals from small letters, and the last one that fits
    decides: code comes after the secrets and is uploaded, whatever its name.
    """
    spelt = ["".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in name) for name in SECRETS]
    return [*spelt, "!*.py"]


def _tracked(project: Path) -> list[Path] | None:
    """List the files that git tracks; None without git, and if the project is an installed copy."""
    if not (project / ".git").exists():
        return None
    names = _git(project, "ls-files", *CODE, *MODULES)
    return None if names is None else [Path(name) for name in names]


def _git(project: Path, *words: str) -> list[str] | None:
    command: Sequence[str] = ("git", "-C", str(project), *words[:1], "-z", *words[1:])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in done.stdout.split("\0") if name]


def _all_files(project: Path) -> list[Path]:
    paths = [project / name for name in MODULES]
    for package in CODE:
        paths += (project / package).rglob("*")
    kept = (path.relative_to(project) for path in paths if path.is_file())
    return [path for path in kept if "__pycache__" not in path.parts]
