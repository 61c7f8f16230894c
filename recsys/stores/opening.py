"""Opens the store that a URL names."""

from __future__ import annotations

from recsys.stores.store import Store


def open_store(
    url: str | None, namespace: str = "recsys", *, read_timeout: float = 0.05, write_timeout: float = 1.0
) -> Store:
    """The store at a URL, or one in this process's memory when there is none; connects when first used.

    Args:
        url: redis://, rediss://, unix://, or None.
        namespace: what all keys begin with.
        read_timeout: seconds that a round trip of reads may take, connecting included.
        write_timeout: seconds that a round trip of writes may take.

    Raises:
        ConfigError: for a URL or a namespace that cannot be used.
    """
    if url is None:
        from recsys.stores.memory import MemoryStore

        return MemoryStore()
    from recsys.stores.redis_store import RedisStore

    return RedisStore(url, namespace, read_timeout=read_timeout, write_timeout=write_timeout)
