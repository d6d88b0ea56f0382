"""Spaces: a collection's embedding model is changed while it is written and searched.

Owns        collection_space, judgement
States      building → active → standby → retired; building → retired; standby → active (rollback)
Guarantees  From the moment a migration is begun, every write gives its chunks vectors in the old space and in the new.
            One row decides whose vectors are searched. It changes only when no chunk that has a vector in the old space
            lacks one in the new, the new one's index finds what looking at every vector finds, and searches find what
            people have judged relevant no worse than before. Whoever forces it leaves the reasons in the audit.
            The old space is kept up to date until it is retired, so that going back needs no waiting.
"""

from .judgements import Judgements
from .models import (
    Judgement,
    MigrationPreview,
    MigrationRunning,
    Recall,
    SpaceBusy,
    SpaceNotFound,
    SpaceNotReady,
    SpaceStanding,
    SpaceState,
)
from .service import Spaces

__all__ = [
    "Judgement",
    "Judgements",
    "MigrationPreview",
    "MigrationRunning",
    "Recall",
    "SpaceBusy",
    "SpaceNotFound",
    "SpaceNotReady",
    "SpaceStanding",
    "SpaceState",
    "Spaces",
]
