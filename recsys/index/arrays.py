"""Arrays on disk that are memory-mapped, one `.npy` file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from recsys.errors import BundleError
from recsys.files import replacing


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Writes an array; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def map_array(path: Path, dtype: DTypeLike, dimensions: int) -> NDArray[Any]:
    """An array as saved, memory-mapped and read-only.

    Raises:
        BundleError: names the file that is missing, truncated, or holds something else.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: missing or damaged; train what it belongs to again ({error})") from None
    if values.dtype != dtype or values.ndim != dimensions:
        raise BundleError(
            f"{path}: holds {values.dtype} of shape {values.shape}, where {np.dtype(dtype)} of {dimensions} dimensions "
            "is to be; it was not written as what it is called"
        )
    return np.asarray(values)
