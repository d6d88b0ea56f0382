"""Chroma on the vectors that vectors.py has saved: `python chroma_side.py FOLDER OPTIONS` prints a line of JSON."""

import json
import sys
from pathlib import Path

import chromadb
import numpy as np
from side import measured

BATCH = 5_000


def main(folder: Path, k: int, group: int) -> None:
    topics, queries = np.load(folder / "topics.npy"), np.load(folder / "queries.npy")
    client = chromadb.PersistentClient(str(folder / "chroma"), chromadb.Settings(anonymized_telemetry=False))
    index = {"space": "cosine", "max_neighbors": 16, "ef_construction": 64, "ef_search": 100}
    collection = client.create_collection("topics", configuration={"hnsw": index}, embedding_function=None)
    for at in range(0, len(topics), BATCH):
        some = range(at, min(at + BATCH, len(topics)))
        collection.add(
            ids=[str(n) for n in some],
            embeddings=topics[at : at + BATCH],
            documents=[f"topic {n}" for n in some],
            metadatas=[{"group": n % 100} for n in some],
        )

    def search(query: np.ndarray, filtered: bool) -> list[str]:
        where = {"group": group} if filtered else None
        return collection.query(query_embeddings=query[None], n_results=k, where=where)["ids"][0]

    measured("Chroma", search, queries)


main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
