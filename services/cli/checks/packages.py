"""Python and the packages: there, in a version that pyproject.toml allows, and loadable."""

from __future__ import annotations

import importlib
import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import recsys
from services.cli.checks.finding import Finding, missing, ok

GROUP: Final = "packages"
_PROJECT: Final = "recsys"
_CHECKOUT: Final = Path(recsys.__file__).parents[1]
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[(\w+)\])?(?:>=([\w.]+))?(?:\s*;\s*extra == [\"'](\w+)[\"'])?")

MODULES: Final = {"faiss-cpu": "faiss", "grpcio": "grpc", "onnxruntime": "onnxruntime", "polars": "polars",
                  "redis": "redis", "lightgbm": "lightgbm", "torch": "torch"}  # fmt: skip
"""Packages with native code that are loaded to see whether it fits this machine, and their modules."""
FAISS: Final = ("faiss-cpu", "faiss-gpu-cu12")
"""Builds of one library: either will do."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that an extra of this project asks for; `extra` is "" for what everybody needs."""

    name: str
    least: str
    extra: str


def check_packages(*, training: bool) -> list[Finding]:
    """Python and every package of `recsys[serve]` and `recsys[train]`; the latter are needed for training only."""
    pins = _pins()
    python = ok(GROUP, "python", f"{platform.python_version()} at {sys.executable}")
    wanted = [requirement for requirement in _requirements() if requirement.extra in ("", "serve", "train")]
    return [python, *(_package(one, pins, needed=training or one.extra != "train") for one in wanted)]


def installed_version(name: str) -> str | None:
    """Version of an installed package, None when it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def why_not_loaded(module: str) -> str | None:
    """What loading a module fails with, None when it loads."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation raises what it likes; here that is the finding
        return f"{type(error).__name__}: {error}"
    return None


def _package(requirement: Requirement, pins: dict[str, str], *, needed: bool) -> Finding:
    name = requirement.name
    builds = FAISS if name in FAISS else (name,)
    version = next((found for build in builds if (found := installed_version(build))), None)
    extra = f"[{requirement.extra}]" if requirement.extra else ""
    install = f"pip install '{_PROJECT}{extra}'"
    if version is None:
        purpose = "" if needed else "; only training needs it"
        return missing(GROUP, name, "not installed", install + purpose, needed=needed)
    if numbers(version) < numbers(requirement.least):
        return missing(GROUP, name, f"{version}, older than {requirement.least}", f"{install} --upgrade", needed=needed)
    if name in MODULES and (reason := why_not_loaded(MODULES[name])):
        again = f"pip install --force-reinstall '{name}>={requirement.least}'"
        return missing(GROUP, name, f"{version}, but it does not load ({reason})", again, needed=needed)
    pinned = pins.get(name.lower(), version)
    tested = "" if numbers(version) == numbers(pinned) else f" (tested with {pinned})"
    return ok(GROUP, name, version + tested)


def _requirements() -> list[Requirement]:
    """What pyproject.toml asks for: the checkout's, which the metadata of an editable install may lag behind."""
    project = _CHECKOUT / "pyproject.toml"
    if project.is_file():
        content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        by_extra = {"": content["dependencies"], **content["optional-dependencies"]}
        return [found for extra, lines in by_extra.items() for found in _parsed(lines, extra)]
    return list(_parsed(metadata.requires(_PROJECT) or (), ""))


def _parsed(lines: Iterable[str], extra: str) -> Iterator[Requirement]:
    for line in lines:
        found = _REQUIREMENT.match(line)
        if found and found[1] != _PROJECT:
            yield Requirement(found[1], found[3] or "0", found[4] or extra)


def _pins() -> dict[str, str]:
    """Versions that are known to work together, from the checkout's constraints.txt; none in an installed package."""
    path = _CHECKOUT / "constraints.txt"
    if not path.is_file():
        return {}
    pairs = (line.split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pairs}


def numbers(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version, comparable: 2.13.0+cpu gives 2, 13, 0."""
    head = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in head[0].split(".")) if head else ()
