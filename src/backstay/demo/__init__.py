"""Demo: the main job on real documents, with real processes, and every claim checked.

It talks to Backstay as any client does: over HTTP and server-sent events.
"""
