"""kill -9 of users, server or everything, at the worst moments: no commit is lost, and the next start works."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from backstay.kernel import postgres_process as processes
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.postgres_locks import FileLock
from embedded_server import (
    ask,
    data_dir,
    empty_dir,
    kill,
    leave,
    running,
    server_of,
    template,
    until,
    user_of,
)  # fmt: skip

__all__ = ["data_dir", "empty_dir", "template"]  # fixtures


def _nothing_runs(data_dir: Path) -> bool:
    lock = FileLock(data_dir / "pg" / "server.lock")
    if lock.take():
        lock.release()
        return True
    return False


def test_a_server_whose_users_were_killed_is_adopted(data_dir: Path) -> None:
    user = user_of(data_dir)
    pid = server_of(user)
    kill(user)
    assert running(pid)
    with EmbeddedPostgres(data_dir) as server:
        assert server.pid == pid
        assert ask(server.url, "select 1") == 1
    assert not running(pid)
    assert list((data_dir / "pg" / "live").iterdir()) == []


def test_commits_survive_kill_9_of_everything(data_dir: Path) -> None:
    user = user_of(data_dir)
    pid = server_of(user)
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("insert into kept select generate_series(1, 1000)")
        everything = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        user.kill()
        for process in everything:
            _kill(process)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    user.communicate()
    # postmaster.pid, socket and socket lock are still there.
    assert (data_dir / "pg" / "data" / "postmaster.pid").exists()
    assert (data_dir / "pg" / "socket" / ".s.PGSQL.5432.lock").exists()
    assert server.start() == url
    assert server.pid != pid
    assert ask(url, "select count(*) from kept") == 1000
    server.stop()


def test_a_pid_that_now_belongs_to_another_process_does_not_block_the_start(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        stale = (data_dir / "pg" / "data" / "postmaster.pid").read_text()
        pid = server.pid
    owner = (data_dir / "pg" / "data").stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    neighbour = subprocess.Popen(["sleep", "600"], **as_owner)  # type: ignore[call-overload]
    try:
        for path in ("data/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
            (data_dir / "pg" / path).write_text(stale.replace(str(pid), str(neighbour.pid), 1))
            os.chown(data_dir / "pg" / path, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(data_dir) as server:
            assert server.pid != neighbour.pid
        assert neighbour.poll() is None  # and it was not taken for ours
    finally:
        neighbour.kill()
        neighbour.wait()


def test_busy_processes_that_outlive_their_server_do_not_block_the_start(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    url = server.start()
    busy = "do $$ begin loop end loop; end $$"  # never looks whether its server lives
    client = subprocess.Popen([server.binary("psql"), url, "-qc", busy], stderr=subprocess.DEVNULL)
    until(lambda: ask(url, "select count(*) from pg_stat_activity where query like 'do %'") == 1)
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not running(pid))
    assert not _nothing_runs(data_dir)
    assert server.start() == url
    assert server.pid != pid
    assert ask(url, "select count(*) from pg_stat_activity where query like 'do %'") == 0
    assert client.wait(timeout=30) != 0
    server.stop()


def test_a_killed_server_is_replaced_by_the_next_start_while_users_live(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: _nothing_runs(data_dir))
        server.start()
        assert server.pid != pid
        assert ask(server.url, "select 1") == 1


def test_a_server_whose_socket_was_removed_is_replaced(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        pid = server.pid
        (data_dir / "pg" / "socket" / ".s.PGSQL.5432").unlink()
        server.start()
        assert server.pid != pid
        assert ask(server.url, "select 1") == 1


def test_a_starter_killed_right_after_it_launched_leaves_a_server_to_adopt(data_dir: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
EmbeddedPostgres._await_ready = lambda *_: os.kill(os.getpid(), 9)
EmbeddedPostgres(Path(sys.argv[1])).start()
"""
    killed = subprocess.run([sys.executable, "-c", script, data_dir], check=False)
    assert killed.returncode == -9
    with EmbeddedPostgres(data_dir) as server:
        assert ask(server.url, "select 1") == 1


def test_a_stopper_killed_while_the_server_ends_does_not_confuse_the_next_start(data_dir: Path) -> None:
    user = user_of(data_dir)
    pid = server_of(user)
    kill(user)
    os.kill(pid, signal.SIGINT)
    with EmbeddedPostgres(data_dir) as server:
        assert server.pid != pid
        assert ask(server.url, "select 1") == 1


@pytest.mark.parametrize("moment", ["configure", "rename", "database"])
def test_a_first_start_killed_half_way_is_taken_up_again(empty_dir: Path, moment: str) -> None:
    script = """
import os, sys
from pathlib import Path
from backstay.kernel import embedded, postgres_cluster, postgres_config
die = lambda *_, **__: os.kill(os.getpid(), 9)
moment = sys.argv[2]
if moment == "configure":
    postgres_config.render_for_this_machine = die
elif moment == "rename":
    postgres_cluster._sync = die
else:
    embedded.prepare_database = die
embedded.EmbeddedPostgres(Path(sys.argv[1])).start()
"""
    killed = subprocess.run([sys.executable, "-c", script, empty_dir, moment], check=False)
    assert killed.returncode == -9
    assert (empty_dir / "pg" / "data").exists() is (moment != "configure")
    with EmbeddedPostgres(empty_dir) as server:
        assert ask(server.url, "select '[1]'::vector") == "[1]"
    assert not (empty_dir / "pg" / "data.new").exists()


def test_a_first_start_killed_during_initdb_is_taken_up_again(empty_dir: Path) -> None:
    user = user_of(empty_dir)
    until(lambda: (empty_dir / "pg" / "data.new" / "PG_VERSION").exists())
    os.killpg(user.pid, signal.SIGKILL)
    user.communicate()
    with EmbeddedPostgres(empty_dir) as server:
        assert ask(server.url, "select 1") == 1


def test_a_thousandfold_of_crashes_in_small(data_dir: Path) -> None:
    """Users come and go, some by kill -9, the server too: always one server, never a wrong refusal."""
    for turn in range(4):
        users = [user_of(data_dir) for _ in range(2)]
        pids = {server_of(user) for user in users}
        assert len(pids) == 1
        kill(users[0])
        if turn % 2:
            _kill(*pids)
            users[1].communicate()  # its stop finds nothing to stop
            assert users[1].returncode == 0
        else:
            leave(users[1])
        until(lambda: _nothing_runs(data_dir))
    assert processes.orphans(data_dir / "pg" / "data") == []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
