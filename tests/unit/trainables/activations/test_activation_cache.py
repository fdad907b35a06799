"""The activation cache: what is computed once, what is refused, what is found damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from tests.cache_tools import (
    CHUNK_ROWS,
    ENTRY_BYTES,
    KEY,
    NUM_CHUNKS,
    NUM_ROWS,
    ROW_SHAPE,
    Computer,
    entry_path,
    fetch,
    is_cached,
    is_whole,
    make_cache,
    read_all,
    true_rows,
)
from trainables.activations.cache import ActivationKey


def test_a_second_fetch_reads_what_the_first_computed(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    read_all(fetch(make_cache(tmp_path / "c"), compute))

    rows = read_all(fetch(make_cache(tmp_path / "c"), compute))

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert rows.dtype == np.float16
    assert len(compute.starts()) == NUM_CHUNKS


def test_only_the_chunks_asked_for_are_computed(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    activations = fetch(make_cache(tmp_path / "c"), compute)

    rows = activations.rows([99, 3, 3, 17])

    assert np.array_equal(rows, true_rows(0, NUM_ROWS)[[99, 3, 3, 17]])
    assert sorted(compute.starts()) == [0, 16, 96]
    assert not is_whole(activations)


def test_an_index_outside_is_refused(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path / "c"))

    with pytest.raises(IndexError, match=r"0\.\.99, got -1\.\.100"):
        activations.rows([-1, 100])


@pytest.mark.parametrize("field", [field.name for field in fields(ActivationKey)])
def test_keys_that_differ_in_one_field_share_nothing(field: str) -> None:
    value = getattr(KEY, field)

    changed: dict[str, Any] = {field: value + 1 if isinstance(value, int) else f"{value}x"}
    other = replace(KEY, **changed)

    assert other.digest != KEY.digest


def test_another_number_of_rows_is_another_entry(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    read_all(fetch(cache))

    longer = cache.fetch(KEY, num_rows=104, row_shape=ROW_SHAPE, compute=true_rows, chunk_rows=CHUNK_ROWS)

    assert np.array_equal(read_all(longer, 104), true_rows(0, 104))


def test_an_entry_keeps_the_chunks_it_was_made_with(tmp_path: Path) -> None:
    read_all(fetch(make_cache(tmp_path / "c")))
    compute = Computer(tmp_path / "log")

    activations = make_cache(tmp_path / "c").fetch(
        KEY, num_rows=NUM_ROWS, row_shape=ROW_SHAPE, compute=compute, chunk_rows=5
    )

    assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
    assert compute.starts() == []


def test_a_fetch_of_a_resident_entry_is_a_few_calls_and_opens_and_hashes_nothing(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    read_all(fetch(cache))
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call":
            calls.append(argument.__name__)

    sys.setprofile(note)
    try:
        fetch(cache)
    finally:
        sys.setprofile(None)

    assert len(calls) < 100  # 41 when this was written, in 0.03 ms
    assert not {"open", "stat", "openssl_sha256", "dumps"} & set(calls)
    assert cache.stats().hits == 1 and cache.stats().misses == 1


def test_a_changed_byte_costs_one_chunk(tmp_path: Path) -> None:
    read_all(fetch(make_cache(tmp_path / "c")))
    with (entry_path(tmp_path / "c") / "data.bin").open("r+b") as data:
        data.seek(ENTRY_BYTES // 2)
        data.write(b"\xff")
    compute = Computer(tmp_path / "log")

    rows = read_all(fetch(make_cache(tmp_path / "c"), compute))

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert compute.starts() == [48]


@pytest.mark.parametrize("name", ["data.bin", "chunks.bin", "meta.json", "last_used"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "grown", "deleted", "garbage"])
def test_a_damaged_file_is_found_and_rebuilt(tmp_path: Path, name: str, damage: str) -> None:
    read_all(fetch(make_cache(tmp_path)))
    path = entry_path(tmp_path) / name
    content = path.read_bytes()
    changed = {"cut": content[: len(content) // 3], "grown": content + b"x" * 5000}
    path.write_bytes(changed.get(damage, b"" if damage == "emptied" else bytes(range(256)) * 3))
    if damage == "deleted":
        path.unlink()

    activations = fetch(make_cache(tmp_path))

    assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
    assert is_whole(activations) and is_cached(activations)
    assert (entry_path(tmp_path) / "data.bin").stat().st_size == ENTRY_BYTES


def test_the_directory_may_be_deleted_while_it_is_used(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c")
    activations = fetch(cache)
    activations.rows([0])
    shutil.rmtree(tmp_path / "c")

    rows = read_all(activations)

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert np.array_equal(read_all(fetch(make_cache(tmp_path / "c"))), true_rows(0, NUM_ROWS))


def test_rows_of_the_wrong_shape_are_a_bug(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path), lambda start, stop: true_rows(start, stop)[:, :2])

    with pytest.raises(ValueError, match=r"rows 0\.\.8 must be float16 \(8, 4, 3\)"):
        activations.rows([0])


@pytest.mark.slow
def test_importing_the_cache_does_not_import_torch() -> None:
    script = "import sys, trainables.activations.cache; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[4], timeout=60)

    assert done.returncode == 0
