"""Posting lists: text search reads the lists of the query's words instead of every chunk.

Owns        bm_segment, bm_posting
States      of a segment: loose (its chunks are looked at one by one) → listed (its chunks have posting lists)
Guarantees  Search by lists finds the chunks that looking at every chunk would find, with the same scores.
            A chunk is found from its commit on: until the folding job has put it into a segment, its write's own row
            in bm_delta names it. Writers add to that row only, so they never wait for each other or for the job.
            A chunk that is gone is never found, though lists may name it until its segment is made anew.

A segment is a set of chunks, 65,536 at most, and never changes: the job replaces small ones by a larger one in one
transaction, and a search sees one moment. Lists hold how often a word occurs, not its weight, so they stay right when
the mean length of chunks moves.
"""
