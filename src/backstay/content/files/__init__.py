"""Files as documents: PDF, DOCX, HTML, Markdown and plain text become Markdown.

Guarantees  A file is read in a process of its own with bounds of time and memory: one that was made to do harm, or one
            that a library stumbles over, ends in an error that says what is wrong, and nothing else notices.
            No transaction is open meanwhile, and nothing that a file refers to is fetched.

The libraries for PDF, DOCX and HTML come with the extra `files`; Markdown and plain text need none.
"""

from .models import FILE_SUFFIXES, FileUnreadable, Kind, Read, ReaderMissing, kind_of
from .reading import MAX_BYTES, read

__all__ = ["FILE_SUFFIXES", "MAX_BYTES", "FileUnreadable", "Kind", "Read", "ReaderMissing", "kind_of", "read"]
