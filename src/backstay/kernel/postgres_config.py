"""Settings of the embedded server, each with its reason. Written at every boot, so that upgrades change them."""

import os
from pathlib import Path

import psutil

MIB = 1024 * 1024
INCLUDE = """
# Written anew at every boot:
include 'backstay.conf'
# Settings of your own go below this line, and win.
"""


def render(memory: int, shm_free: int) -> str:
    """The text of backstay.conf, for `memory` bytes and a shared memory file system with `shm_free` bytes left."""
    # Containers have 64 MB of shared memory, too little for building indexes in parallel: files in the data then.
    shared = "posix" if shm_free >= 1024 * MIB else "mmap"
    buffers = min(max(memory // 8, 128 * MIB), 1024 * MIB) // MIB
    maintenance = min(max(memory // 32, 64 * MIB), 512 * MIB) // MIB
    return f"""\
# Backstay writes this file at every boot; changes here are lost. Put yours at the end of postgresql.conf.

# Who may connect
listen_addresses = ''                   # no TCP: only the socket, in a directory that is its owner's alone
unix_socket_directories = '../socket'   # relative to the data: depth and odd characters do not matter
unix_socket_permissions = 0700          # once more, should the directory's mode be loosened by hand
port = 5432                             # only names the socket file
password_encryption = scram-sha-256     # for whoever opens TCP: nothing weaker
max_connections = 200                   # several processes, each with a pool per role
cluster_name = 'backstay'               # seen in `ps`

# Nothing acknowledged is ever lost
fsync = on
synchronous_commit = on
full_page_writes = on

# Change data capture, without a forgotten consumer filling the disk or holding back vacuum
wal_level = logical
max_slot_wal_keep_size = 2GB
idle_replication_slot_timeout = 1d

# Memory, from the machine's {memory // MIB} MB
shared_buffers = {buffers}MB
effective_cache_size = {max(memory // 2 // MIB, 256)}MB
work_mem = 8MB                          # times 200 connections at worst
maintenance_work_mem = {maintenance}MB            # vector indexes build in memory, or crawl
huge_pages = off                        # where their number is limited, `try` dies of SIGBUS
dynamic_shared_memory_type = {shared}      # mmap where the shared memory file system is small

# Planning
jit = off                               # compiling costs more than our short statements take
random_page_cost = 1.1                  # flash, not spinning disks

# Housekeeping
autovacuum_naptime = 15s                # queue tables turn over quickly
timezone = 'UTC'
search_path = 'public'                  # without "$user": the login is named like our schema, where users'
                                        # tables would land otherwise

# Log: to server.log beside the data
log_timezone = 'UTC'
lc_messages = 'C'                       # we read some of what it says
log_line_prefix = '%m [%p] %q%u@%d '
log_error_verbosity = terse             # leaves out DETAIL, which quotes values of rows
log_checkpoints = off
log_min_messages = warning
"""


def render_for_this_machine() -> str:
    return render(_memory(), _shm_free())


HBA = """\
# local: whoever can open the socket is the owner of the data or root, and could read the files anyway; its
# directory lets nobody else in. A password would protect nothing, and need a place to lie.
local   all           all                  trust
local   replication   all                  trust
# TCP is closed (listen_addresses); whoever opens it needs a password.
host    all           all           all    scram-sha-256
"""


def _memory() -> int:
    """Bytes of memory we may use: the machine's, or the container's when that is less."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _shm_free() -> int:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 (asked for its size, nothing is put there by us)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
