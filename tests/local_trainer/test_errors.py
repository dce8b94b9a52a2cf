"""What others' errors say becomes one line."""

import socket

import pytest

from local_trainer.errors import first_line, last_line, one_line
from local_trainer.net import free_port


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("one\n  two\tthree ", "one two three"),
        (ValueError("bad\nvalue"), "bad value"),
        (ValueError("bad value"), "bad value"),
        (KeyError(), "KeyError"),
        ("", ""),
    ],
)
def test_one_line_has_no_breaks_and_is_never_empty_for_an_error(
    said: str | Exception, line: str
) -> None:
    assert one_line(said) == line
    assert one_line(said, 3) == line[:3]


def test_first_line_of_an_error_or_its_kind() -> None:
    assert first_line(RuntimeError("\nbroken file \nat node x\nat node y")) == "broken file"
    assert first_line(RuntimeError(" \n ")) == "RuntimeError"


def test_last_line_is_the_last_with_anything_on_it() -> None:
    assert last_line("started\n  no such file\n\n \n") == "no such file"
    assert last_line("\n \n") == last_line("") == ""


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[0] == "127.0.0.1"
