"""A server's process searches for cycles among what came after its start, and finds them."""

import subprocess
import sys

SETTLED = """
import gc, weakref
from backstay.kernel import garbage

class Node:
    pass

def cycle():
    one, other = Node(), Node()
    one.other, other.other = other, one
    return weakref.ref(one)

early = [Node() for _ in range(1000)]
garbage.settle()
assert not any(isinstance(found, Node) for found in gc.get_objects()), "what was there is searched again"
late = cycle()
assert late() is not None
made = []
while late() is not None and len(made) < 100_000:
    made.append([])
assert late() is None, "nobody searches any more"
assert len(made) > 2_000, "it is searched for as often as before"
"""


def test_what_was_there_is_left_alone_and_a_cycle_of_later_is_found_after_a_while():
    subprocess.run([sys.executable, "-c", SETTLED], check=True, timeout=60)
