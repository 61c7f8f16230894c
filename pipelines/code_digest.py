"""A digest of the code that a step runs: a changed model is trained again, an untouched one is not."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

LEARNING = ("recsys.recipes", "recsys.models", "recsys.train", "recsys.index")
"""Packages whose code decides what a fitted model is, as far as its recipe imports it."""
PREPARING = ("recsys.data", "recsys.features", "pipelines.prepared")
"""Packages whose code decides what the prepared data are."""
MERGING = ("recsys.cascade", "recsys.evaluate", "recsys.retrieval", "recsys.ranking")
"""Packages whose code decides how lists are merged, and whether to pre-rank."""
BUNDLING = ("recsys.bundle", "recsys.stores")
"""Packages whose code decides how a bundle is laid out."""


def code_digest(module: str, within: Sequence[str]) -> str:
    """Hex hash of a module's source and of all it imports, directly or not, below the packages `within`."""
    hasher = hashlib.sha256()
    for name in sorted(_closure(module, tuple(within))):
        source = _source(name)
        if source is not None:
            hasher.update(name.encode() + b"\0" + source.read_bytes())
    return hasher.hexdigest()


@lru_cache
def _closure(module: str, within: tuple[str, ...]) -> frozenset[str]:
    found, waiting = {module}, [module]
    while waiting:
        source = _source(waiting.pop())
        if source is None:
            continue
        for name in _imported(source):
            if name not in found and _below(name, within) and _source(name) is not None:
                found.add(name)
                waiting.append(name)
    return frozenset(found)


def _imported(source: Path) -> Iterator[str]:
    """Names that may be modules: those imported, and those imported from."""
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _below(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@lru_cache
def _source(name: str) -> Path | None:
    """Source file of a module, None for what is not a module with one."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
