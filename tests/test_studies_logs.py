"""Logs of studies: bounded files, offsets that last, and nothing in them that a terminal or a page would obey."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lncis.studies.record import logs
from lncis.studies.record.logs import Log, plain_text, read


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 100 bytes, three of them."""
    monkeypatch.setattr(logs, "FILE_BYTES", 100)
    monkeypatch.setattr(logs, "FILES", 3)


def numbered(count: int) -> list[str]:
    return [f"line {number:03d}\n" for number in range(count)]


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    with Log(tmp_path, "driver") as log:
        for line in numbered(50):
            log.write(line)
    part = read(tmp_path, ["driver"], offset=0, limit=10_000)
    assert part.text == "".join(numbered(50))
    assert (part.offset, part.first, part.end, part.next) == (0, 0, 450, 450)


def test_the_oldest_lines_go_and_offsets_stay(tmp_path: Path, short: None) -> None:
    log, whole = Log(tmp_path, "driver"), "".join(numbered(100))
    for line in numbered(100):
        log.write(line)
    part = read(tmp_path, ["driver"], offset=0, limit=10_000)
    assert part.end == len(whole) == 900
    assert part.offset == part.first > 0
    assert part.text == whole[part.first :]  # by the offsets of the whole, although its begin is gone
    assert sum(path.stat().st_size for path in (tmp_path / "driver").iterdir()) <= 300
    log.close()
    Log(tmp_path, "driver").write("line 100\n")  # the next session
    assert read(tmp_path, ["driver"], offset=900, limit=100).text == "line 100\n"


def test_read_from_part_to_part_it_is_whole(tmp_path: Path, short: None) -> None:
    log = Log(tmp_path, "driver")
    for line in numbered(20):
        log.write(line)
    at, found = 0, ""
    for _ in itertools.count():
        part = read(tmp_path, ["driver"], offset=at, limit=50)
        if not part.content:
            break
        assert part.text.endswith("\n")  # whole lines
        assert len(part.content) <= 50
        at, found = part.next, found + part.text
    assert found == "".join(numbered(20))


def test_the_end_of_a_log_begins_with_a_line(tmp_path: Path) -> None:
    Log(tmp_path, "driver").write("".join(numbered(20)))
    part = read(tmp_path, ["driver"], offset=None, limit=20)
    assert part.text == "line 018\nline 019\n"
    assert part.offset == 18 * 9


def test_the_stages_of_a_trial_are_one_log(tmp_path: Path, short: None) -> None:
    for name in ("first", "second"):
        Log(tmp_path, name).write("".join(f"{name} {line}" for line in numbered(3)))
    whole = read(tmp_path, ["first", "unheard-of", "second"], offset=0, limit=1000)
    assert whole.text.splitlines() == [f"{name} line {n:03d}" for name in ("first", "second") for n in range(3)]
    for offset in range(len(whole.content)):
        assert read(tmp_path, ["first", "second"], offset=offset, limit=1000).content == whole.content[offset:]


def test_a_gap_between_stages_is_passed_over(tmp_path: Path, short: None) -> None:
    Log(tmp_path, "first").write("a\n")
    log = Log(tmp_path, "second")
    for line in numbered(100):
        log.write(line)
    part = read(tmp_path, ["first", "second"], offset=0, limit=10_000)
    assert part.text == "a\n"
    after = read(tmp_path, ["first", "second"], offset=part.next, limit=10_000)
    assert after.offset > part.next
    assert after.next == after.end


def test_what_does_not_exist_is_empty(tmp_path: Path) -> None:
    part = read(tmp_path / "none", ["driver"], offset=7, limit=100)
    assert (part.text, part.offset, part.end) == ("", 0, 0)


def test_a_process_that_was_killed_leaves_a_line_that_ends(tmp_path: Path) -> None:
    Log(tmp_path, "driver").write("whole\n")
    (file,) = (tmp_path / "driver").iterdir()
    file.write_bytes(b"whole\nhal")
    Log(tmp_path, "driver").write("next\n")
    assert read(tmp_path, ["driver"], offset=0, limit=100).text == "whole\nhal\nnext\n"


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    with Log(tmp_path, "driver") as log:
        for _ in range(3):
            log.write("x" * 3000)
        log.write("\n")
    lines = read(tmp_path, ["driver"], offset=0, limit=100_000).text.splitlines()
    assert max(map(len, lines)) <= logs.MAX_LINE_CHARACTERS


def test_a_full_disk_costs_lines_and_no_study(small_disk: Path) -> None:
    log = Log(small_disk, "driver")
    for _ in range(100):
        log.write("x" * 3000 + "\n")
    assert sum(path.stat().st_size for path in (small_disk / "driver").iterdir()) <= 100 * 1024


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("50 %\r100 %\r\n", "50 %\n100 %\n"),
        ("bell\x07, \x9b1m, \u202eturned", "bell\ufffd, \ufffd1m, \ufffdturned"),
        ("tab\tand ümlaut", "tab\tand ümlaut"),
    ],
)
def test_no_terminal_obeys_a_log(written: str, kept: str) -> None:
    assert plain_text(written) == kept


@given(some.text())
def test_plain_text_is_plain_whatever_was_written(text: str) -> None:
    plain = plain_text(text)
    assert all(c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in plain)
    assert plain_text(plain) == plain


def test_a_study_leaves_its_logs(small: Any) -> None:
    folder, spec = small.directory / logs.LOGS, small.spec
    driver = read(folder, [logs.DRIVER], offset=0, limit=10**6).text
    assert f"drives {spec.total_trials} trials" in driver
    assert driver.endswith("nothing is left to do\n")
    for trial in small.trials:
        assert f"trial {trial.trial.name} begins: {trial.trial.label}" in driver
        assert f"trial {trial.trial.name}: finished" in driver
        of_stage = read(folder, [trial.directory.name], offset=0, limit=10**6).text
        assert f"to {spec.base.schedule.epochs}, process" in of_stage
        assert f"epoch {spec.base.schedule.epochs}: train/loss" in of_stage
