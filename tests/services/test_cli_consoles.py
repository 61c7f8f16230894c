"""What files, keys and titles say is printed as it stands."""

from __future__ import annotations

import pytest
from rich.table import Table

from recsys.errors import InputError
from services.cli import main
from services.cli.consoles import text_console

ODD = "[rec] :fire: [/] 127.0.0.1:-1: [bold]"


def test_text_is_neither_markup_nor_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console = text_console(wide=True)
    console.print(ODD)
    table = Table("title")
    table.add_row(ODD)
    console.print(table)
    assert capsys.readouterr().out.count(ODD) == 2


def test_an_error_says_what_was_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError(ODD)

    monkeypatch.setattr(main, "app", refuse)
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err == f"error: {ODD}\n"
