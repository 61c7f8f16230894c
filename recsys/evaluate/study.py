"""The seam of a report's studies: questions of their own, each an entry of report.json and a section of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from recsys.evaluate.section import Section


class Study(Protocol):
    """What one question about a protocol's test events came to."""

    @property
    def key(self) -> str:
        """Its entry under the protocol in report.json."""
        ...

    def as_json(self) -> Mapping[str, Any]:
        """The entry."""
        ...

    def section(self) -> Section:
        """What a person reads."""
        ...
