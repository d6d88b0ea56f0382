"""Indexes over vectors: which kind a space has, built and changed while it is written and searched.

Owns        space_build, and what stands in space.index_*
States      of an index: wished → building → standing; a build that fails or dies is begun anew
Guarantees  No index is built before there are vectors enough: an ivfflat one is never trained on an empty table.
            Another kind takes the place of the one that stands only when it is complete; nothing waits meanwhile.
            One process builds at a time. What a crash leaves behind is found, dropped and built again.
"""

from ..models import IndexKind
from .models import Advice, Build, Finding, IndexImpossible, IndexState
from .service import Indexes

__all__ = ["Advice", "Build", "Finding", "IndexImpossible", "IndexKind", "IndexState", "Indexes"]
