"""Every Python from 3.11.0 on unpacks a study's copy in the same way, and never outside its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cluster.jobs.fetch import extract


@pytest.fixture(params=["as it is", "3.11.3"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `tarfile` as this Python has it, and as one without extraction filters."""
    if request.param == "as it is":
        return
    original = tarfile.TarFile.extractall

    def extractall(self: tarfile.TarFile, path: Path) -> None:
        original(self, path, filter="fully_trusted")

    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)


def make_archive(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> tarfile.TarFile:
    with tarfile.open(path, "w:gz") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return tarfile.open(path)


def test_plain_files_are_unpacked(python: None, tmp_path: Path) -> None:
    with make_archive(
        tmp_path / "a.tar.gz", tarfile.TarInfo("s/trials/0/predictions.npz"), b"abc"
    ) as archive:
        extract(archive, tmp_path / "here")

    assert (tmp_path / "here/s/trials/0/predictions.npz").read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["../outside", "s/../../outside"])
def test_a_file_that_leads_out_of_the_folder_is_refused(python: None, tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()

    with (
        make_archive(tmp_path / "a.tar.gz", tarfile.TarInfo(name), b"abc") as archive,
        pytest.raises((ValueError, tarfile.FilterError)),
    ):
        extract(archive, tmp_path / "here")

    assert not (tmp_path / "outside").exists()


def test_a_link_that_leads_out_of_the_folder_is_refused(python: None, tmp_path: Path) -> None:
    link = tarfile.TarInfo("s/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../outside"

    with (
        make_archive(tmp_path / "a.tar.gz", link) as archive,
        pytest.raises((ValueError, tarfile.FilterError)),
    ):
        extract(archive, tmp_path / "here")
