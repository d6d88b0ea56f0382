"""LanceDB on the vectors that vectors.py has saved: `python lance_side.py FOLDER OPTIONS` prints a line of JSON."""

import json
import sys
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from side import measured


def main(folder: Path, k: int, group: int) -> None:
    topics, queries = np.load(folder / "topics.npy"), np.load(folder / "queries.npy")
    numbers = range(len(topics))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(topics.ravel()), topics.shape[1])
    columns = {
        "id": [str(n) for n in numbers],
        "text": [f"topic {n}" for n in numbers],
        "group": [n % 100 for n in numbers],
    }
    table = lancedb.connect(folder / "lance").create_table("topics", pa.table(columns | {"vector": vectors}))
    graph = {"num_partitions": 1, "m": 16, "ef_construction": 64}
    table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ", **graph)
    table.create_scalar_index("group", index_type="BITMAP")

    def search(query: np.ndarray, filtered: bool) -> list[str]:
        asked = table.search(query).distance_type("cosine").ef(100).limit(k).select(["id", "text"])
        if filtered:
            asked = asked.where(f"`group` = {group}", prefilter=True)
        return [row["id"] for row in asked.to_list()]

    measured("LanceDB", search, queries)


main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
