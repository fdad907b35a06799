"""Files written aside and renamed, locks, nearest names and the meaning of errors."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contract import files
from contract.files import (
    DISK_FULL,
    LEFTOVERS,
    TRANSIENT,
    did_you_mean,
    file_lock,
    fill_aside,
    find_os_error,
    first_line,
    hold_shared,
    is_text,
    nearest_names,
    printable,
    remove_leftovers,
    save_bytes,
    save_json,
    save_text,
    temporary_names,
    write_aside,
)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of what was forced to the disk, in order."""
    kinds: list[str] = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: kinds.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"),
    )
    return kinds


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_bytes_and_json_replace_the_file_and_leave_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("text", "bytes", "json"):
        (tmp_path / name).write_text("old", encoding="utf-8")

    save_text(tmp_path / "text", "Blüte")
    save_bytes(tmp_path / "bytes", b"\x00")
    save_json(tmp_path / "json", {"class": "Blüte"})

    assert (tmp_path / "text").read_bytes() == "Blüte".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00"
    assert "Blüte" in (tmp_path / "json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "json").read_text(encoding="utf-8")) == {"class": "Blüte"}
    assert names(tmp_path) == ["bytes", "json", "text"]


def test_an_error_while_writing_keeps_the_old_file_and_removes_the_half(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    with pytest.raises(KeyboardInterrupt), write_aside(path) as part:
        part.write_text("ne", encoding="utf-8")
        raise KeyboardInterrupt

    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


def test_content_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_json(tmp_path / "file", object())

    assert names(tmp_path) == []


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    with write_aside(path) as part, part.open("w", encoding="utf-8") as lines:
        lines.write("new")
        during = path.read_text(encoding="utf-8")

    assert (during, path.read_text(encoding="utf-8")) == ("old", "new")


def test_durable_forces_the_content_before_the_name(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def note(old: Path, new: Path) -> Path:
        synced.append("rename")
        return rename(old, new)

    monkeypatch.setattr(Path, "replace", note)

    save_text(tmp_path / "file", "text")
    save_text(tmp_path / "cheap", "text", durable=False)

    assert synced == ["file", "rename", "folder", "rename"]


def test_a_file_system_that_cannot_sync_folders_is_no_failure_but_a_bad_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = {"number": errno.EINVAL, "file too": 0}

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or failures["file too"]:
            raise OSError(failures["number"], "no")

    monkeypatch.setattr(os, "fsync", fsync)
    save_text(tmp_path / "file", "text")
    failures["file too"] = 1

    with pytest.raises(OSError, match="no"):
        save_text(tmp_path / "file", "new")

    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"
    assert names(tmp_path) == ["file"]


def test_two_writers_never_share_a_temporary_name_and_a_glob_finds_all(tmp_path: Path) -> None:
    path = tmp_path / "file"

    with temporary_names(path) as (one,), temporary_names(path) as (other,):
        one.touch()
        other.mkdir()
        found = set(tmp_path.glob(LEFTOVERS))

    assert found == {one, other} and len(found) == 2
    assert names(tmp_path) == []


def test_several_files_get_their_names_only_once_all_are_written(tmp_path: Path) -> None:
    paths = (tmp_path / "model.pt", tmp_path / "predictions.npz")

    with pytest.raises(OSError, match="full"), temporary_names(*paths) as (model, _):
        model.touch()
        raise OSError(errno.ENOSPC, "full")

    assert names(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_and_folders_have_the_permissions_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_text(tmp_path / "file", "text")
        with fill_aside(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with fill_aside(tmp_path / "deep" / "good", scratch=tmp_path) as part:
        (part / "file").touch()
        assert part.parent == tmp_path and not (tmp_path / "deep").exists()
    with pytest.raises(ValueError, match="broken"), fill_aside(tmp_path / "bad") as part:
        (part / "file").touch()
        raise ValueError("broken")

    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep" / "good") == ["file"]


@pytest.mark.parametrize(("replace", "kept"), [(False, "theirs"), (True, "mine")])
def test_the_older_folder_stays_unless_it_is_to_be_replaced(tmp_path: Path, replace: bool, kept: str) -> None:
    path = tmp_path / "folder"

    with fill_aside(path, replace=replace) as part:
        (part / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()

    assert names(path) == [kept]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_get_its_name_gives_it_back_to_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "folder", Path.rename
    path.mkdir()
    (path / "theirs").touch()

    def fail_for_new(old: Path, new: Path) -> Path:
        if (old / "mine").exists():
            raise OSError(errno.EIO, "broken")
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="broken"), fill_aside(path, replace=True) as part:
        (part / "mine").touch()

    assert names(path) == ["theirs"]


def test_a_durable_folder_is_forced_to_the_disk_file_by_file(tmp_path: Path, synced: list[str]) -> None:
    with fill_aside(tmp_path / "folder", durable=True) as part:
        (part / "inner").mkdir()
        (part / "inner" / "one").touch()
        (part / "two").touch()

    assert synced == ["file", "folder", "file", "folder", "folder"]


def test_leftovers_of_one_name_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".model.0123.part").mkdir()
    (tmp_path / ".model.0123.part" / "file").touch()
    (tmp_path / ".report.html.0123.part").touch()
    (tmp_path / "model").mkdir()

    remove_leftovers(tmp_path, "model")
    assert names(tmp_path) == [".report.html.0123.part", "model"]

    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model"]


def test_a_lock_is_exclusive_and_free_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"

    with file_lock(path) as descriptor:
        os.pwrite(descriptor, b"owner", 0)
        with pytest.raises(BlockingIOError) as raised, file_lock(path, timeout_seconds=0):
            pass
        with pytest.raises(BlockingIOError), file_lock(path, shared=True, timeout_seconds=0):
            pass
    with file_lock(path, timeout_seconds=0):
        content = path.read_bytes()

    assert content == b"owner"  # opening it to lock it does not empty it
    assert raised.value.filename == str(path)


def test_shared_locks_go_together_and_keep_the_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    with (
        file_lock(path, shared=True),
        file_lock(path, shared=True, timeout_seconds=0),
        pytest.raises(BlockingIOError),
        file_lock(path, timeout_seconds=0),
    ):
        pass
    descriptor = os.open(path, os.O_RDONLY)
    hold_shared(descriptor)
    with pytest.raises(BlockingIOError), file_lock(path, timeout_seconds=0):
        pass
    os.close(descriptor)

    with file_lock(path, timeout_seconds=0):
        pass


def test_a_lock_is_waited_for_until_the_time_is_over(tmp_path: Path) -> None:
    path, now = tmp_path / "lock", [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with (
        file_lock(path),
        pytest.raises(BlockingIOError),
        file_lock(path, timeout_seconds=5, clock=lambda: now[0], sleep=sleep),
    ):
        pass

    assert 5 <= now[0] < 6


def test_a_lock_that_becomes_free_meanwhile_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = os.open(path, os.O_RDWR | os.O_CREAT)
    hold_shared(holder)

    with file_lock(path, timeout_seconds=5, clock=lambda: 0.0, sleep=lambda _: os.close(holder)):
        pass


def test_a_thread_waits_for_another_threads_lock(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def take() -> None:
        with file_lock(path):
            order.append("second")

    thread = threading.Thread(target=take)
    with file_lock(path):
        thread.start()
        order.append("first")
    thread.join(timeout=120)

    assert order == ["first", "second"]


def test_a_killed_process_and_a_started_program_keep_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""
import os, pathlib, subprocess, sys
from contract.files import file_lock
with file_lock(pathlib.Path({str(path)!r})):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    print(sleeper.pid, flush=True)
    os._exit(1)
"""

    subprocess.run([sys.executable, "-c", code], cwd=Path(files.__file__).parents[1], capture_output=True)

    with file_lock(path, timeout_seconds=0):
        pass


def test_a_file_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), file_lock(tmp_path / "none", create=False):
        pass

    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("lte0", ["lite0", "lite1"]), ("LITE0", ["lite0", "lite1"]), ("sham", ["asha"]), ("zzz", []), ("", [])],
)
def test_the_nearest_names_come_first_and_far_ones_not_at_all(name: str, near: list[str]) -> None:
    assert nearest_names(name, ["asha", "lite1", "lite0", "median"]) == near


def test_the_hint_names_the_choices_or_is_empty() -> None:
    assert did_you_mean("lite2", ("lite0", "lite1", "asha")) in (
        "did you mean lite0 or lite1?",
        "did you mean lite1 or lite0?",
    )
    assert did_you_mean("Asha", ("asha",)) == "did you mean asha?"
    assert did_you_mean("random", ("asha",)) == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such study\nadvice"), "no such study"),
        (OSError("\n  Repository not found.\n(Request ID: 1)"), "Repository not found"),
        (ValueError("did you mean lite0?"), "did you mean lite0?"),
        (KeyError(), "KeyError"),
        (RuntimeError(" \n "), "RuntimeError"),
    ],
)
def test_an_error_in_one_line(error: BaseException, line: str) -> None:
    assert first_line(error) == line


def test_a_transient_fault_is_found_behind_the_error_that_a_library_made_of_it() -> None:
    fault = OSError(errno.ESTALE, "stale")
    wrapped = RuntimeError("archive")
    wrapped.__cause__ = fault

    assert find_os_error(wrapped) is fault
    assert find_os_error(wrapped, DISK_FULL) is None
    assert find_os_error(FileNotFoundError(errno.ENOENT, "gone")) is None
    assert find_os_error(None) is None


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.ECONNREFUSED, errno.ENETUNREACH]
)
def test_what_waiting_does_not_mend_is_not_transient(number: int) -> None:
    assert number not in TRANSIENT


def test_a_full_disk_is_transient_and_a_quota_is_a_full_disk() -> None:
    assert {errno.ENOSPC, errno.EDQUOT} == DISK_FULL < TRANSIENT
    assert {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE} < TRANSIENT


def test_json_holds_names_whose_bytes_are_no_utf8_and_gives_them_back(tmp_path: Path) -> None:
    content = {"source": os.fsdecode(b"/data/caf\xe9 \xff"), "classes": ["tulipán", os.fsdecode(b"r\xf6t")]}

    save_json(tmp_path / "facts.json", content)

    text = (tmp_path / "facts.json").read_text(encoding="utf-8")
    assert "tulipán" in text
    assert json.loads(text) == content


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "half \ud800 of a pair", "tulipán"])
def test_a_printable_name_goes_into_every_file(name: str) -> None:
    shown = printable(name)

    shown.encode("utf-8")
    assert shown[:3] == name[:3]
    assert is_text(shown)
    assert is_text(name) == (shown == name)
