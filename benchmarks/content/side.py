"""How every other side is measured: one query after the other, with and without the filter. Standard library only."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any


def measured(name: str, search: Callable[[Any, bool], list[str]], queries: Sequence[Any]) -> None:
    """Prints what vectors.py reads."""
    found = []
    for filtered in (False, True):
        for query in queries[:50]:
            search(query, filtered)
        ids, seconds, cpu = [], [], time.process_time()
        for query in queries:
            start = time.perf_counter()
            ids.append(search(query, filtered))
            seconds.append(time.perf_counter() - start)
        found.append(
            {
                "name": f"{'  1 % by a filter' if filtered else name}",
                "filtered": filtered,
                "ids": ids,
                "seconds": seconds,
                "cpu": (time.process_time() - cpu) / len(queries),
            }
        )
    print("\nMEASURED " + json.dumps(found), flush=True)
