"""Writes a configuration as TOML that reads back to the same configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(values: Mapping[str, Any]) -> str:
    """TOML of nested mappings, lists, strings, numbers and booleans; None, which TOML lacks, is left out.

    Raises:
        TypeError: for a value of any other type.
    """
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Lines of a table: its heading, its plain values, then its subtables."""
    present = {name: value for name, value in values.items() if value is not None}
    lines = ["", f"[{'.'.join(_key(part) for part in path)}]"] if path else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in present.items() if not isinstance(v, Mapping)]
    for name, value in present.items():
        if isinstance(value, Mapping):
            lines += _table(value, (*path, name))
    return lines


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(value)  # "inf" and "nan" are TOML too
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return _array([_value(part) for part in value], any(isinstance(part, Mapping) for part in value))
    raise TypeError(f"{value!r} has no form in TOML")


def _array(parts: list[str], one_a_line: bool) -> str:
    return "[\n" + "".join(f"    {part},\n" for part in parts) + "]" if one_a_line else f"[{', '.join(parts)}]"


def _string(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
