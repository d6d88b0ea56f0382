"""Which index suits how many vectors, and what it takes."""

from dataclasses import replace

import pytest

from backstay.content.indexes import IndexKind, IndexState
from backstay.content.indexes.advice import (
    Thresholds,
    build_bytes,
    build_seconds,
    findings,
    fitting,
    index_bytes,
    lists_for,
    possible,
    probes_for,
    recommended,
)

GB, MB = 1 << 30, 1 << 20
USUAL = Thresholds()


def state(wish: str = "auto", kind: str | None = None, *, dimensions: int = 768, cache: int = 4 * GB) -> IndexState:
    return IndexState(
        space=3,
        collection="docs",
        model="test:model",
        dimensions=dimensions,
        wish=IndexKind(wish),
        kind=IndexKind(kind) if kind else None,
        lists=None,
        indexed_at=None,
        filling=False,
        rows=0,
        built_rows=None,
        built_seconds=None,
        table_bytes=0,
        cache_bytes=cache,
    )


@pytest.mark.parametrize(
    ("wish", "kind", "rows", "expected"),
    [
        ("auto", None, 19_999, "none"),
        ("auto", None, 20_000, "hnsw"),
        ("auto", "hnsw", 100, "hnsw"),  # one that stands is kept
        ("auto", "ivfflat", 20_000, "hnsw"),
        ("auto", None, 3_000_000, "binary"),
        ("auto", "hnsw", 3_000_000, "binary"),
        ("auto", "binary", 1_800_000, "binary"),  # fits again, but only just
        ("auto", "binary", 1_500_000, "hnsw"),
        ("hnsw", None, 4_999, "none"),
        ("hnsw", None, 5_000, "hnsw"),
        ("ivfflat", None, 0, "none"),  # never trained on nothing
        ("ivfflat", None, 5_000, "ivfflat"),
        ("ivfflat", "hnsw", 10, "hnsw"),
        ("binary", None, 5_000, "binary"),
        ("none", None, 10**7, "none"),
        ("none", "hnsw", 10**7, "none"),
    ],
)
def test_the_kind_follows_the_wish_the_number_of_vectors_and_the_memory(
    wish: str, kind: str | None, rows: int, expected: str
) -> None:
    assert fitting(state(wish, kind), rows, USUAL) == expected


def test_many_dimensions_leave_the_binary_index_only() -> None:
    wide = state(dimensions=4_001)
    assert fitting(wide, 20_000, USUAL) is IndexKind.BINARY
    assert recommended(wide, 20_000, USUAL) is IndexKind.BINARY
    assert fitting(replace(wide, wish=IndexKind.HNSW), 20_000, USUAL) is IndexKind.NONE
    assert [possible(IndexKind(kind), 4_001) for kind in ("hnsw", "ivfflat", "binary", "none", "auto")] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_nothing_is_built_before_the_model_has_answered() -> None:
    assert fitting(replace(state("hnsw"), dimensions=None), 10**6, USUAL) is IndexKind.NONE


def test_lists_and_probes_follow_the_number_of_vectors() -> None:
    assert [lists_for(rows) for rows in (0, 50_000, 1_000_000, 4_000_000)] == [10, 50, 1_000, 2_000]
    assert [probes_for(lists) for lists in (10, 50, 1_000, 2_000)] == [10, 21, 93, 132]


def test_no_more_lists_are_trained_than_the_memory_holds() -> None:
    lists = lists_for(25_000_000, dimensions=768, memory=GB)
    assert 1_000 < lists < 5_000
    assert build_bytes(IndexKind.IVFFLAT, 25_000_000, 768, lists) <= GB
    assert lists_for(25_000_000, dimensions=768, memory=MB) == 10


def test_sizes_are_those_of_vectors_and_links() -> None:
    assert index_bytes(IndexKind.NONE, 10**6, 768) == 0
    assert 1.8 * GB < index_bytes(IndexKind.HNSW, 10**6, 768) < 2.2 * GB
    assert index_bytes(IndexKind.BINARY, 10**6, 768) < index_bytes(IndexKind.HNSW, 10**6, 768) / 3
    # rows × bytes × 1.3
    assert build_bytes(IndexKind.HNSW, 1_000, 768) == int(1_000 * (768 * 2 + 400) * 1.3)


def test_the_last_build_on_this_server_tells_how_long_the_next_takes() -> None:
    known = replace(state(kind="hnsw"), built_rows=1_000, built_seconds=2.0)
    assert build_seconds(IndexKind.HNSW, known, 50_000) == 100
    assert build_seconds(IndexKind.BINARY, known, 50_000) < 100
    assert build_seconds(IndexKind.NONE, known, 50_000) == 0


@pytest.mark.parametrize(
    ("standing", "rows", "codes"),
    [
        (state(), 49_999, []),
        (state(), 50_000, ["vectors_without_index"]),
        (state("none"), 50_000, ["vectors_without_index"]),
        (state(kind="hnsw"), 50_000, []),
        (state(kind="hnsw", cache=10 * MB), 50_000, ["index_exceeds_memory"]),
        (state(kind="binary", cache=64 * GB), 10_000_000, ["many_vectors"]),
        (replace(state("ivfflat", "ivfflat"), built_rows=5_000), 25_001, ["lists_outgrown"]),
        (replace(state("ivfflat", "ivfflat"), built_rows=5_000), 25_000, []),
    ],
)
def test_what_an_operator_should_know_is_found_with_its_mend(standing: IndexState, rows: int, codes: list[str]) -> None:
    found = findings(standing, rows, USUAL)
    assert [one.code for one in found] == codes
    assert all(one.mend and "docs" in one.detail for one in found)
