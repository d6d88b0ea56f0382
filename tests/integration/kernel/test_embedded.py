"""The embedded server starts, is shared, keeps to its settings, and says what is wrong when it cannot."""

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from backstay.kernel import postgres_account, postgres_cluster, postgres_config, postgres_socket
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.postgres_account import Account, bundled_programs
from backstay.kernel.postgres_errors import (
    DataCorrupted,
    DataDirUnusable,
    DiskFull,
    OtherPostgresMajor,
    PostgresFailed,
)
from embedded_server import ask, data_dir, empty_dir, kill, leave, running, server_of, template, until, user_of

__all__ = ["data_dir", "empty_dir", "template"]  # fixtures

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another account")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")


def test_a_first_start_makes_a_database_with_vectors(empty_dir: Path) -> None:
    with EmbeddedPostgres(empty_dir) as server:
        assert ask(server.url, "select current_database() || ' ' || current_user") == "backstay backstay"
        assert ask(server.url, "select '[1,2]'::vector <-> '[1,2]'::vector") == 0
        assert (
            ask(server.url, "select extnamespace::regnamespace::text from pg_extension where extname = 'vector'")
            == "public"
        )


def test_a_later_start_finds_the_rows_again(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        ask(server.url, "with made as (select 1) select 1 from made")
        subprocess.run([server.binary("psql"), server.url, "-qc", "create table kept as select 42 as n"], check=True)
    with EmbeddedPostgres(data_dir) as server:
        assert ask(server.url, "select n from kept") == 42


def test_start_and_stop_may_be_called_again(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    server.stop()
    url = server.start()
    pid = server.pid
    assert server.start() == url
    assert server.pid == pid
    server.stop()
    until(lambda: not running(pid))  # its lock goes a moment before the process does
    server.stop()
    with pytest.raises(PostgresFailed, match="does not run"):
        server.pid  # noqa: B018
    assert server.start() == url
    server.stop()


def test_the_settings_are_those_of_the_design(data_dir: Path) -> None:
    expected = {
        "listen_addresses": "", "wal_level": "logical", "max_slot_wal_keep_size": "2GB",
        "idle_replication_slot_timeout": "1d", "jit": "off", "fsync": "on", "synchronous_commit": "on",
        "max_connections": "200", "password_encryption": "scram-sha-256", "data_checksums": "on",
        "huge_pages": "off", "unix_socket_permissions": "0700", "server_encoding": "UTF8", "TimeZone": "UTC",
    }  # fmt: skip
    with EmbeddedPostgres(data_dir) as server:
        found = ask(server.url, "select json_object_agg(name, current_setting(name)) from pg_settings")
        assert {name: found[name] for name in expected} == expected
        assert ask(server.url, "select count(*) from pg_file_settings where error is not null") == 0
        rules = ask(server.url, "select json_agg(array[type, auth_method] order by rule_number) from pg_hba_file_rules")
        assert rules == [["local", "trust"], ["local", "trust"], ["host", "scram-sha-256"]]
        assert ask(server.url, "select lower('ÄÉ') || upper('ß')") == "äéß"


def test_an_unqualified_table_lands_in_public_not_in_our_schema(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        script = "create schema if not exists backstay; create table mine (n int)"
        subprocess.run([server.binary("psql"), server.url, "-qc", script], check=True)
        assert ask(server.url, "select schemaname from pg_tables where tablename = 'mine'") == "public"


def test_settings_of_ones_own_win_and_survive_a_boot(data_dir: Path) -> None:
    with (data_dir / "pg" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("work_mem = 13MB\n")
    (data_dir / "pg" / "data" / "backstay.conf").write_text("work_mem = 1MB\n")
    with EmbeddedPostgres(data_dir) as server:
        assert ask(server.url, "show work_mem") == "13MB"
        assert ask(server.url, "show wal_level") == "logical"


@pytest.mark.parametrize(("memory", "buffers"), [(512 << 20, "128MB"), (4 << 30, "512MB"), (256 << 30, "1024MB")])
def test_buffers_follow_memory_within_bounds(memory: int, buffers: str) -> None:
    assert f"shared_buffers = {buffers}\n" in postgres_config.render(memory, shm_free=0)


def test_a_small_shared_memory_file_system_is_not_used() -> None:
    assert "dynamic_shared_memory_type = mmap" in postgres_config.render(8 << 30, shm_free=64 << 20)
    assert "dynamic_shared_memory_type = posix" in postgres_config.render(8 << 30, shm_free=4 << 30)


def test_only_the_owner_gets_to_the_socket(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        found = (data_dir / "pg" / "socket").stat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == (data_dir / "pg" / "data").stat().st_uid
        assert stat.S_IMODE((data_dir / "pg" / "socket" / ".s.PGSQL.5432").stat().st_mode) == 0o700


def test_a_deep_directory_gets_a_short_private_socket(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep, 'and' %41 \"odd\" ü" + "x" * 100)
    data_dir.rename(deep)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with EmbeddedPostgres(deep) as server:
        assert ask(server.url, "select 1") == 1
        short = Path(os.readlink(deep / "pg" / "socket"))
        assert len(os.fsencode(short)) < 90
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        assert short.stat().st_uid == (deep / "pg" / "data").stat().st_uid
    with EmbeddedPostgres(deep) as server:
        assert str(short) in server.url  # the same again
    shutil.rmtree(short)
    with EmbeddedPostgres(deep) as server:  # temporary files were cleared
        assert ask(server.url, "select 1") == 1
    shutil.rmtree(os.readlink(deep / "pg" / "socket"))


def test_odd_characters_in_the_path_do_no_harm(data_dir: Path, tmp_path: Path) -> None:
    odd = Path("/tmp") / f"b,'%\"é {os.getpid()}"
    subprocess.run(["cp", "-a", data_dir, odd], check=True)
    try:
        with EmbeddedPostgres(odd) as server:
            assert ask(server.url, "select 1") == 1
    finally:
        shutil.rmtree(os.readlink(odd / "pg" / "socket"))  # a comma needs the short directory
        shutil.rmtree(odd)


def test_a_squatted_short_directory_is_not_used(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    data_dir.rename(deep)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)
    (deep / "pg" / "socket").rmdir()
    (deep / "pg" / "socket").symlink_to(theirs)
    with EmbeddedPostgres(deep) as server:
        assert str(theirs) not in server.url
        assert list(theirs.iterdir()) == []
    shutil.rmtree(os.readlink(deep / "pg" / "socket"))


def test_two_processes_share_one_server_and_the_last_one_stops_it(data_dir: Path) -> None:
    first, second = user_of(data_dir), user_of(data_dir)
    pid = server_of(first)
    assert server_of(second) == pid
    leave(first)
    assert running(pid)
    with EmbeddedPostgres(data_dir) as server:
        assert server.pid == pid
        leave(second)
        assert ask(server.url, "select 1") == 1
    assert not running(pid)


def test_many_processes_that_start_at_once_on_nothing_get_one_server(empty_dir: Path) -> None:
    users = [user_of(empty_dir) for _ in range(4)]
    servers = {server_of(user) for user in users}
    assert len(servers) == 1
    for user in users:
        leave(user)
    assert not running(servers.pop())


def test_two_holds_in_one_process_are_two_users(data_dir: Path) -> None:
    first, second = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)
    first.start()
    second.start()
    first.stop()
    assert ask(second.url, "select 1") == 1
    second.stop()


def test_a_forked_child_does_not_end_the_hold_of_its_parent(data_dir: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
child = os.fork()
if child == 0:
    server.stop()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(server.pid)
os.kill(server.pid, 0)
assert len(list((server.home / "live").iterdir())) == 1
server.stop()
"""
    subprocess.run([sys.executable, "-c", script, data_dir], check=True, stdout=subprocess.DEVNULL)


def test_the_server_holds_no_pipe_of_its_starter_and_prints_nothing(data_dir: Path) -> None:
    script = """
import sys
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1])).start()
"""
    # Ends without stop(): the server runs on. A pipe it had inherited would keep us waiting here.
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, data_dir], capture_output=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == (b"", b"")
    with EmbeddedPostgres(data_dir) as server:
        pid = server.pid
        inherited = {
            os.readlink(f"/proc/{pid}/fd/{fd}")
            for fd in os.listdir(f"/proc/{pid}/fd")
            if os.path.lexists(f"/proc/{pid}/fd/{fd}")
        }
        ours = {name for name in inherited if str(data_dir) in name}
        assert ours == {str(data_dir / "pg" / name) for name in ("server.log", "server.lock")}
        assert os.getsid(pid) != os.getsid(0)


def test_the_server_does_not_inherit_our_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-the-server")
    with EmbeddedPostgres(data_dir) as server:
        assert "not-for-the-server" not in str(psutil.Process(server.pid).environ())


def test_ctrl_c_in_one_terminal_leaves_the_server_to_the_others(data_dir: Path) -> None:
    starter = user_of(data_dir)
    pid = server_of(starter)
    with EmbeddedPostgres(data_dir) as server:
        os.killpg(starter.pid, signal.SIGINT)
        starter.communicate(timeout=60)
        assert server.pid == pid
        assert ask(server.url, "select 1") == 1


def test_users_that_are_busy_do_not_hold_up_the_last_one(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    server.start()
    asleep = subprocess.Popen(
        [server.binary("psql"), server.url, "-qc", "select pg_sleep(600)"], stderr=subprocess.DEVNULL
    )
    while ask(server.url, "select count(*) from pg_stat_activity where query like 'select pg_sleep%'") == 0:
        pass
    server.stop()
    assert asleep.wait(timeout=60) != 0  # it did not sleep to its end


def test_data_of_another_major_are_refused(data_dir: Path) -> None:
    (data_dir / "pg" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(OtherPostgresMajor, match=r"written by Postgres 16.*brings Postgres 18.*db dump"):
        EmbeddedPostgres(data_dir).start()


def test_a_directory_that_is_no_database_is_refused(data_dir: Path) -> None:
    (data_dir / "pg" / "data" / "PG_VERSION").unlink()
    with pytest.raises(DataCorrupted, match="PG_VERSION is missing"):
        EmbeddedPostgres(data_dir).start()


@pytest.mark.parametrize("damaged", ["global/pg_control", "global/pg_filenode.map", "pg_wal"])
def test_damaged_files_are_named_with_what_postgres_said(data_dir: Path, damaged: str) -> None:
    path = data_dir / "pg" / "data" / damaged
    if path.is_dir():
        for segment in path.glob("0*"):
            segment.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:16] + os.urandom(len(whole) - 16))
    with pytest.raises(DataCorrupted, match=r"(?s)are damaged.*Postgres said:\n.*(FATAL|PANIC)") as caught:
        EmbeddedPostgres(data_dir).start()
    assert len(caught.value.detail) < 4000
    assert list((data_dir / "pg" / "live").iterdir()) == []


def test_a_wrong_setting_is_shown_with_the_log(data_dir: Path) -> None:
    with (data_dir / "pg" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("work_mem = 'a lot'\n")
    server = EmbeddedPostgres(data_dir)
    with pytest.raises(PostgresFailed, match='invalid value for parameter "work_mem"'):
        server.start()
    with pytest.raises(PostgresFailed, match="does not run"):
        server.pid  # noqa: B018


def test_a_full_disk_is_said_before_anything_is_written(empty_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_cluster, "ROOM", 1 << 60)
    with pytest.raises(DiskFull, match=r"has \d+ MB left"):
        EmbeddedPostgres(empty_dir).start()
    assert not (empty_dir / "pg" / "data.new").exists()


def test_a_disk_that_fills_up_is_told_from_other_failures(tmp_path: Path) -> None:
    said = 'PANIC:  could not write to file "pg_wal/xlogtemp.7": No space left on device'
    assert isinstance(postgres_cluster.explain(tmp_path, said), DiskFull)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirUnusable, match=r"file.*cannot be (used|read).*BACKSTAY_DATA_DIR"):
        EmbeddedPostgres(tmp_path / "file").start()


@as_user
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataDirUnusable, match="Permission denied"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_no_directory_short_enough_for_a_socket_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_socket, "SOCKET_PATH_LIMIT", 10)
    (tmp_path / "pg").mkdir()
    account = Account(os.geteuid(), os.getegid(), other=False)
    with pytest.raises(DataDirUnusable, match="too long a path for a socket"):
        postgres_socket.socket_directory(tmp_path / "pg", account)


def test_a_program_that_does_not_come_along_is_said(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="no program mysql"):
        EmbeddedPostgres(data_dir).binary("mysql")


def test_a_long_log_is_put_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = data_dir / "pg" / "server.log"
    monkeypatch.setattr(postgres_cluster, "LOG_LIMIT", 10)
    before = log.read_bytes()
    with EmbeddedPostgres(data_dir):
        assert (data_dir / "pg" / "server.log.1").read_bytes() == before
        assert b"ready to accept" in log.read_bytes()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_link_instead_of_the_log_or_the_lock_is_not_followed(data_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    for name in ("server.log", "lock", "server.lock"):
        path = data_dir / "pg" / name
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(DataDirUnusable):
            EmbeddedPostgres(data_dir).start()
        path.unlink()
    assert target.read_text() == "precious"


@as_root
def test_root_runs_it_as_the_owner_of_the_data_in_a_private_directory(data_dir: Path) -> None:
    data_dir.chmod(0o700)  # below pytest's own directory, which is closed to others as well
    with EmbeddedPostgres(data_dir) as server:
        process = psutil.Process(server.pid)
        assert process.uids().real == (data_dir / "pg" / "data").stat().st_uid != 0
        assert process.uids().effective == process.uids().saved == process.uids().real
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{server.pid}/status").read_text()
        assert ask(server.url, "select pg_reload_conf()") is True


@dataclass
class Found:
    """Where a package was found, as `find_spec` says it."""

    submodule_search_locations: list[str]


@as_root
def test_root_can_use_programs_that_the_account_cannot_reach(
    empty_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    package = bundled_programs().parent.parent
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, private / part.name, symlinks=True)
    private.chmod(0o700)
    monkeypatch.setattr(postgres_account, "find_spec", lambda _: Found([str(private / package.name)]))
    shared = Path("/tmp") / f"backstay-test-{os.getpid()}"
    monkeypatch.setattr(postgres_account, "CACHE_DIRS", (tmp_path / "unreachable", shared))
    try:
        for _ in range(2):
            with EmbeddedPostgres(empty_dir) as server:
                assert ask(server.url, "select '[1]'::vector") == "[1]"
                assert Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(shared)
        (copy,) = shared.iterdir()
        assert all(found.lstat().st_uid == 0 for found in copy.rglob("*"))
        assert not [found for found in copy.rglob("*") if not found.is_symlink() and found.stat().st_mode & 0o022]
    finally:
        shutil.rmtree(shared, ignore_errors=True)


@as_root
def test_root_without_any_place_for_the_programs_is_told_the_mend(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundled_programs().parent, tmp_path / "install", symlinks=True)
    monkeypatch.setattr(postgres_account, "bundled_programs", lambda: tmp_path / "install" / "bin")
    squatted = Path("/tmp") / f"backstay-test-{os.getpid()}"
    squatted.mkdir()
    os.chown(squatted, 12345, 12345)
    monkeypatch.setattr(postgres_account, "CACHE_DIRS", (squatted,))
    try:
        with pytest.raises(ConfigurationError, match=r"cannot reach .*belongs to.*Install Backstay where"):
            EmbeddedPostgres(data_dir).start()
    finally:
        squatted.rmdir()


@as_root
def test_data_of_root_are_refused_with_the_command_that_mends(data_dir: Path) -> None:
    os.chown(data_dir / "pg" / "data", 0, 0)
    with pytest.raises(DataDirUnusable, match=r"belongs to root.*chown -R \w+ "):
        EmbeddedPostgres(data_dir).start()


@as_root
def test_root_without_the_right_to_change_account_is_told_so(data_dir: Path) -> None:
    script = """
import sys
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.errors import ConfigurationError
try:
    EmbeddedPostgres(Path(sys.argv[1])).start()
except ConfigurationError as error:
    print(error.detail)
"""
    said = subprocess.run(
        ["setpriv", "--bounding-set=-setuid,-setgid", sys.executable, "-c", script, data_dir],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "may not change to the account" in said
    assert "CAP_SETUID" in said


@as_root
def test_root_in_a_container_that_may_not_look_at_processes_can_stop_it(data_dir: Path) -> None:
    user = subprocess.Popen(
        ["setpriv", "--bounding-set=-sys_ptrace,-dac_read_search", sys.executable, "-c",
         "import sys\nfrom pathlib import Path\nfrom backstay.kernel.embedded import EmbeddedPostgres\n"
         "with EmbeddedPostgres(Path(sys.argv[1])) as server:\n    print(server.pid, flush=True)\n", data_dir],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said, _ = user.communicate(timeout=60)
    assert user.returncode == 0
    assert not running(int(said))


def _ordinary(uid: int) -> dict[str, Any]:
    """Arguments to run our code as another user, by an interpreter which that user can reach."""
    ours = Path(postgres_account.__file__).parents[2]
    arguments: dict[str, Any] = {
        "user": uid, "group": uid, "extra_groups": [],
        "env": {"PATH": os.defpath, "PYTHONPATH": f"{ours}:{sysconfig.get_path('platlib')}"},
    }  # fmt: skip
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        options = arguments | {"executable": interpreter}
        command = [interpreter, "-c", "import backstay.kernel.embedded"]
        try:
            subprocess.run(command, stderr=subprocess.DEVNULL, check=True, **options)
        except (OSError, subprocess.CalledProcessError):
            continue
        return options
    pytest.skip("no interpreter lies with its packages where an ordinary user may read")


@as_root
@pytest.mark.parametrize("uid", [pwd.getpwnam("nobody").pw_uid, 54321], ids=["nobody", "uid without a name"])
def test_an_ordinary_user_runs_it_as_itself_and_root_may_join(uid: int, template: Path) -> None:
    options = _ordinary(uid)
    home = Path("/tmp") / f"backstay-home-{os.getpid()}"
    home.mkdir(mode=0o700)
    if uid == 54321:  # can use a database, not make one
        subprocess.run(["cp", "-a", template, home / "data"], check=True)
    subprocess.run(["chown", "-R", f"{uid}:{uid}", home], check=True)
    try:
        user = user_of(home / "data", **options)
        pid = server_of(user)
        assert psutil.Process(pid).uids().real == options["user"]
        with EmbeddedPostgres(home / "data") as server:
            assert server.pid == pid
            leave(user)
            assert running(pid)
        assert not running(pid)
        with EmbeddedPostgres(home / "data") as server:  # now root starts it
            assert psutil.Process(server.pid).uids().real == options["user"]
            user = user_of(home / "data", **options)
            assert server_of(user) == server.pid
        leave(user)  # and the ordinary user stops it
        assert not [path for path in home.rglob("*") if path.lstat().st_uid != options["user"]]
    finally:
        shutil.rmtree(home)


@as_root
def test_an_account_without_a_name_is_told_how_to_get_one() -> None:
    home = Path("/tmp") / f"backstay-home-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, 54321, 54321)
    try:
        problem = _refusal(home / "data", _ordinary(54321))
        assert "echo 'backstay:x:54321:54321::/:/bin/sh' >> /etc/passwd" in problem["detail"]
    finally:
        shutil.rmtree(home)


@as_root
def test_an_ordinary_user_is_refused_the_data_of_another(data_dir: Path) -> None:
    home = Path("/tmp") / f"backstay-home-{os.getpid()}"
    subprocess.run(["cp", "-a", data_dir, home], check=True)
    home.chmod(0o755)
    os.chown(home / "pg" / "data", 54321, 54321)
    try:
        problem = _refusal(home, _ordinary(pwd.getpwnam("nobody").pw_uid))
        assert problem["code"] == "data_dir_unusable"
        assert "belongs to uid 54321, and this process runs as nobody" in problem["detail"]
    finally:
        shutil.rmtree(home)


def _refusal(data_dir: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The problem document of a start that another account tries."""
    script = """
import sys, json
from pathlib import Path
from backstay.kernel.embedded import EmbeddedPostgres
from backstay.kernel.errors import ConfigurationError
try:
    EmbeddedPostgres(Path(sys.argv[1])).start()
except ConfigurationError as error:
    print(json.dumps(error.problem()))
"""
    command = [sys.executable, "-c", script, data_dir]
    said = subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout
    problem: dict[str, Any] = json.loads(said)
    return problem


def test_a_killed_user_is_not_counted(data_dir: Path) -> None:
    first, second = user_of(data_dir), user_of(data_dir)
    pid = server_of(first)
    server_of(second)
    kill(second)
    assert running(pid)
    leave(first)
    assert not running(pid)
