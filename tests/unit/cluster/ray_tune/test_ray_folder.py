"""Where Ray puts its sockets and logs, whatever the environment says of temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cluster.ray_tune import local_ray
from cluster.ray_tune.local_ray import MOST_RAY_BYTES, find_ray_folder
from tests.other_user import STRANGER, call_as, needs_root, open_way


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder /tmp of these tests: short, and its users' own."""
    folder = Path(tempfile.mkdtemp(prefix="u", dir="/tmp"))
    folder.chmod(0o1777)
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(local_ray, "SHORT_FOLDERS", (str(folder),))
    return folder


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_can_be_used_is_left_to_ray(
    variable: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(temporary))

    assert find_ray_folder() is None


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize(
    ("name", "why"), [("gone", "does not exist"), ("long" * 20, "too long for a socket")]
)
def test_a_folder_that_cannot_be_used_is_named_and_a_private_one_taken(
    variable: str,
    name: str,
    why: str,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if name != "gone":
        (temporary / name).mkdir()
    monkeypatch.setenv(variable, str(temporary / name))

    found = find_ray_folder()

    assert found is not None
    assert len(found) <= MOST_RAY_BYTES
    assert Path(found).parent.stat().st_mode & 0o777 == 0o700
    (record,) = caplog.records
    assert why in record.getMessage()
    assert variable in record.getMessage()


@needs_root
def test_a_second_user_does_not_stumble_over_the_firsts_ray(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    (temporary / "ray").mkdir()
    (temporary / "ray").chmod(0o777)
    assert call_as(STRANGER, find_ray_folder) == "None"

    (temporary / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")

    assert call_as(STRANGER, find_ray_folder) == str(temporary / f"unfreeze-{STRANGER}" / "ray")


@needs_root
def test_a_folder_that_is_read_only_is_not_used(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path(tempfile.mkdtemp(prefix="r", dir=open_way(temporary)))
    short.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(short))

    assert call_as(STRANGER, find_ray_folder) == str(temporary / f"unfreeze-{STRANGER}" / "ray")


def test_without_any_folder_the_error_names_what_to_set(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ray, "_why_unfit", lambda folder: f"{folder} cannot be written")

    with pytest.raises(ValueError, match="set RAY_TMPDIR"):
        find_ray_folder()
