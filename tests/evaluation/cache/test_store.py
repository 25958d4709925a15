from __future__ import annotations

from pathlib import Path

import numpy as np

from fairtat.evaluation.cache.store import AnswerStore

DONE = np.array([1, 1, 1, 0, 0], np.int32)
ARRAYS = {"pred": np.arange(5), "attacked": np.array([True, False])}


def test_what_is_kept_is_found_again_under_the_same_question_only(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "deep" / "parts", {"model": "m", "data": "d"})
    assert store.load({"kind": "clean"}, ARRAYS, 5) == []
    store.save({"kind": "clean", "eps": 0.1}, ARRAYS, DONE)
    found = AnswerStore(tmp_path / "deep" / "parts", {"data": "d", "model": "m"}).load(
        {"eps": 0.1, "kind": "clean"}, ARRAYS, 5
    )
    ((arrays, done),) = found
    assert done.tolist() == DONE.tolist()
    assert arrays["pred"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["attacked"].dtype == bool
    assert store.load({"kind": "clean", "eps": 0.2}, ARRAYS, 5) == []
    assert (
        AnswerStore(tmp_path / "deep" / "parts", {"model": "n", "data": "d"}).load(
            {"kind": "clean", "eps": 0.1}, ARRAYS, 5
        )
        == []
    )


def test_an_unfinished_part_waits_for_its_time(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, {})
    store.save({"q": 1}, ARRAYS, DONE, due=False)
    assert store.load({"q": 1}, ARRAYS, 5) == []
    store._saved -= 1000
    store.save({"q": 1}, ARRAYS, DONE, due=False)
    assert store.load({"q": 1}, ARRAYS, 5) != []


def test_nothing_is_kept_without_a_folder(tmp_path: Path) -> None:
    store = AnswerStore(None, {})
    store.save({"q": 1}, ARRAYS, DONE)
    assert store.load({"q": 1}, ARRAYS, 5) == []


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, {})
    store.save({"q": 1}, ARRAYS, DONE)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:-5], b"x" * 100):
        path.write_bytes(content)
        assert store.load({"q": 1}, ARRAYS, 5) == []
    path.write_bytes(whole)
    assert store.load({"q": 1}, ARRAYS, 5) != []


def test_nothing_is_read_afresh(tmp_path: Path) -> None:
    AnswerStore(tmp_path, {}).save({"q": 1}, ARRAYS, DONE)
    assert AnswerStore(tmp_path, {}, fresh=True).load({"q": 1}, ARRAYS, 5) == []


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, {})
    store.save({"q": 1}, ARRAYS, DONE)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for k in range(0, len(whole), 7):  # headers are longer than that
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 0x10]) + whole[k + 1 :])
        assert store.load({"q": 1}, ARRAYS, 5) == []
