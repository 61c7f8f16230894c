"""The consoles of the verbs: what a file, a key or a title says is printed as it stands."""

from __future__ import annotations

import sys

from rich.console import Console

PLAIN_WIDTH = 160
"""Columns of a table that no terminal limits."""


def text_console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A console that takes no text for markup ("[rec]") or for an emoji (":fire:").

    Args:
        stderr: writes to the standard error.
        wide: tables get PLAIN_WIDTH columns where nothing is a terminal.
    """
    width = PLAIN_WIDTH if wide and not sys.stdout.isatty() else None
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)
