"""Configuration: frozen models that refuse unknown keys, and the overrides of a command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from recsys.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys refused, defaults in its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Config)


def parse_config(kind: type[C], values: Mapping[str, Any], source: str) -> C:
    """Validates `values` as a `kind`.

    Raises:
        ConfigError: names `source`, the first bad key, its value and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{source}: there is no setting {key!r}{_known_keys(kind, first['loc'])}") from None
        raise ConfigError(f"{source}: {key} = {first['input']!r}: {first['msg']}") from None


def _known_keys(kind: type[Config], location: tuple[int | str, ...]) -> str:
    """The settings beside an unknown one, as the end of a sentence."""
    current: Any = kind
    for part in location[:-1]:
        field = getattr(current, "model_fields", {}).get(part)
        current = getattr(field, "annotation", None)
    names = sorted(getattr(current, "model_fields", {}))
    return f"; there are: {', '.join(names)}" if names else ""


def override(config: C, assignments: Sequence[str]) -> C:
    """Applies `--set` assignments such as `two_tower.dim=64` to a configuration.

    Values are read as TOML (`64`, `0.1`, `true`, `[1, 2]`); what is not TOML is a string.

    Raises:
        ConfigError: for an assignment without "=", an unknown key or a value of the wrong type.
    """
    values = config.model_dump()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: write it as key=value, for example two_tower.dim=64")
        *parents, last = path.strip().split(".")
        node = values
        for parent in parents:
            child = node.get(parent)
            if not isinstance(child, dict):
                known = ", ".join(sorted(node)) or "none"
                raise ConfigError(f"--set {assignment}: there is no group {parent!r}; there are: {known}")
            node = child
        node[last] = _toml_value(text.strip())
    return parse_config(type(config), values, "--set " + " ".join(assignments))


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: when it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
