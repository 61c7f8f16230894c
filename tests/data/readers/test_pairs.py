from __future__ import annotations

import gzip

import pytest

from recsys.errors import DataError


def test_the_order_of_lines_is_the_order_of_a_users_events(write, import_as) -> None:
    stored = import_as("pairs", write("log.txt", "7 30\n8 10\n7 20\n7 10\n8 30\n"))
    assert stored.dataset.info.time == "order"
    # (user, item, position in the user's history, line)
    assert stored.events == [(7, 30, 0, 0), (8, 10, 0, 1), (7, 20, 1, 2), (8, 30, 1, 4), (7, 10, 2, 3)]


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4\n",
        "1\t2\n3\t4",
        "1 2\r\n3 4\r\n",
        "\ufeff1 2\n3 4\n",
        "  1   2 \n\n\n3 \t 4\n\n",
    ],
    ids=["blank", "tab", "crlf", "byte order mark", "blank lines and odd blanks"],
)
def test_the_ways_to_write_two_lines(write, import_as, text: str) -> None:
    assert [row[:3] for row in import_as("pairs", write("log.txt", text)).events] == [(1, 2, 0), (3, 4, 0)]


def test_a_compressed_file_is_read_as_it_is(write, import_as) -> None:
    assert len(import_as("pairs", write("log.txt.gz", gzip.compress(b"1 2\n3 4\n"))).events) == 2


def test_every_event_is_a_click_and_every_item_is_in_the_catalogue(write, import_as) -> None:
    stored = import_as("pairs", write("log.txt", "1 20\n1 10\n"))
    assert stored.dataset.info.counts.by_type["click"] == 2
    assert stored.dataset.items().rows() == [(10,), (20,)]


def test_bad_lines_are_counted_and_named_and_break_no_position(write, import_as) -> None:
    lines = [f"1 {item}" for item in range(1000)]
    lines[3], lines[5], lines[7], lines[9] = "1", "1 2 3", "1 x", "007 5"
    stored = import_as("pairs", write("log.txt", "\n".join(lines)))
    assert stored.rejected == [
        ("log.txt", 4, "it is not two ids with a blank between", "1"),
        ("log.txt", 6, "it is not two ids with a blank between", "1 2 3"),
        ("log.txt", 8, "item_id 'x' is not an integer", "1 x"),
        ("log.txt", 10, "user_id '007' is not an integer", "007 5"),
    ]
    assert [row[2] for row in stored.events] == list(range(996))
    assert stored.dataset.info.counts.rejected == 4


def test_a_word_among_integers_is_refused_with_what_to_do(write, import_as) -> None:
    with pytest.raises(DataError, match=r"item_id: 1 of 3 values are not integers, such as 'x'.*--ids string"):
        import_as("pairs", write("log.txt", "1 2\n1 x\n2 3\n"))


def test_bytes_that_are_not_utf_8_are_a_bad_line(write, import_as) -> None:
    content = b"\n".join(b"u%d i%d" % (n, n) for n in range(300)) + b"\nu1 caf\xe9\n"
    stored = import_as("pairs", write("log.txt", content))
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [(301, "it is not valid UTF-8")]
    assert len(stored.events) == 300


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PAR1\0\0", "is not a text file"), (gzip.compress(b"1 2\n" * 999)[:30], "cannot be read as text")],
    ids=["binary", "cut gzip"],
)
def test_what_is_no_text_is_refused(write, import_as, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_as("pairs", write("log.txt", content))
