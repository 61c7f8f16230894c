"""A component of a bundle: one channel, scorer or calibration, and the file that says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, JsonValue, ValidationError

from recsys.config import Config
from recsys.errors import BundleError
from recsys.files import write_text

COMPONENTS_FOLDER: Final = "components"
COMPONENT_FILE: Final = "component.json"

NAME_PATTERN: Final = r"^[a-z][a-z0-9_]{0,63}$"
"""A component's name is a folder's name and a word on the wire: no separators, no dots."""


class ComponentInfo(Config):
    """What `components/<name>/component.json` holds.

    Attributes:
        name: what requests, reports and folders call it.
        kind: the seam it fits.
        type: which opener reads it, a key of the tables in openers.py.
        format: version of the files' layout, raised when an older opener could not read them.
        feature_set_hash, catalogue_hash: what it was made for; a bundle with another one is refused.
        files: names within the component's folder, without component.json itself, "/" between folders.
        metrics: what its training measured.
        options: what its opener needs to know beside the files.
    """

    name: str = Field(pattern=NAME_PATTERN)
    kind: Literal["channel", "scorer", "calibration"]
    type: str
    format: int = 1
    feature_set_hash: str
    catalogue_hash: str
    files: list[str] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)


def component_directory(out: Path, name: str) -> Path:
    """Where component `name` lies below a recipe's output or a bundle."""
    return out / COMPONENTS_FOLDER / name


def write_component(out: Path, info: ComponentInfo) -> Path:
    """Writes `out/components/<name>/component.json` for the files that lie beside it.

    Args:
        out: a recipe's output directory, or a bundle.
        info: with `files` empty, every file found in the folder is listed.

    Returns:
        The component's folder.

    Raises:
        BundleError: when the listed files are not exactly those in the folder.
    """
    directory = component_directory(out, info.name)
    directory.mkdir(parents=True, exist_ok=True)
    present = files_below(directory, without=COMPONENT_FILE)
    listed = sorted(info.files) if info.files else present
    if listed != present:
        odd = sorted(set(listed) ^ set(present))[0]
        problem = "is listed but not there" if odd in listed else "is there but not listed"
        raise BundleError(f"component {info.name}: {odd} {problem}; list exactly the files in {directory}")
    complete = info.model_copy(update={"files": listed})
    write_text(directory / COMPONENT_FILE, complete.model_dump_json(indent=2) + "\n")
    return directory


def read_component(directory: Path) -> ComponentInfo:
    """Reads a component's folder.

    Raises:
        BundleError: when component.json is missing or is not what it should be, by its path.
    """
    path = directory / COMPONENT_FILE
    try:
        return ComponentInfo.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); the component is not whole") from None
    except ValueError as error:
        raise BundleError(f"{path}: is not the description of a component: {first_line(error)}") from None


def components_below(out: Path) -> list[Path]:
    """The component folders of a recipe's output or a bundle, by name."""
    folder = out / COMPONENTS_FOLDER
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def files_below(directory: Path, *, without: str = "") -> list[str]:
    """Names of all files below a directory, relative to it, sorted, except the one named `without`."""
    parts = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(directory).as_posix() for path in parts)
    return sorted(name for name in names if name != without)


def first_line(error: ValueError) -> str:
    """An error's message on one line; of a file that does not fit its model, the first field that is wrong."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else first["msg"]
