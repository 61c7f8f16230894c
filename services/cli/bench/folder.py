"""The folder that a benchmark leaves its figures in."""

from __future__ import annotations

from pathlib import Path

from recsys.errors import UsageError


def make_folder(out: Path) -> None:
    """Makes it before an hour's work is to be written there.

    Raises:
        UsageError: when it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from None
