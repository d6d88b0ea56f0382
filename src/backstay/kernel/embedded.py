"""The embedded Postgres: a server of our own, kept in the data directory, for whoever brings no database.

    data_dir/pg/data          the database cluster; belongs to the account Postgres runs as
    data_dir/pg/socket        directory of the only door, or a link to a short one when this path is too long
    data_dir/pg/server.log    what the server says, and server.log.1 the boots before
    data_dir/pg/lock, live/, server.lock      see postgres_locks

Any number of processes share it. The first to start it creates and boots it, the last to stop it shuts it down.
The server is nobody's child and has no terminal, so that Ctrl-C in one process leaves the others their database.
After kill -9 of its users it runs on and is adopted by the next start; after kill -9 of everything it recovers.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from . import postgres_cluster as cluster
from . import postgres_process as processes
from .errors import BackstayError, ConfigurationError
from .postgres_account import Account, account_for, bundled_programs, programs_for
from .postgres_errors import PostgresBusy, PostgresFailed
from .postgres_locks import FileLock, LiveUser, deciding
from .postgres_socket import Door, door, prepare_database, socket_directory, url

START_LIMIT = 300.0  # seconds; replaying the log after a crash may take minutes
STOP_LIMIT = 30.0  # seconds for a fast shutdown, then the same again for an immediate one
BEAT = 0.005  # seconds between looks at a server that starts or stops


class EmbeddedPostgres:
    """One process's hold on the embedded server. `start` and `stop` block: async code calls them in a thread."""

    def __init__(self, data_dir: Path) -> None:
        self.home = data_dir.absolute() / "pg"
        self._data = self.home / "data"
        self._log = self.home / "server.log"
        self._user = LiveUser(self.home / "live")

    @property
    def url(self) -> str:
        """libpq URL of the database `backstay`, logged in as the superuser `backstay`. Leads somewhere once started."""
        place = self.home / "socket"
        return url(Path(os.readlink(place)) if place.is_symlink() else place)

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            PostgresFailed: it does not run.
        """
        found = processes.postmaster(self._data)
        if found is None:
            raise PostgresFailed(f"the embedded database in {self.home} does not run.")
        return found.pid

    def binary(self, name: str) -> Path:
        """A Postgres program of the server's own version, such as psql or pg_dump.

        Raises:
            ConfigurationError: there is no such program.
        """
        program = bundled_programs() / name
        if not program.exists():
            raise ConfigurationError(f"the embedded Postgres brings no program {name}.")
        return program

    def start(self) -> str:
        """Makes sure that the server runs and the database exists, and returns `url`. May be called again.

        Raises:
            ConfigurationError: it cannot run here. postgres_errors has the kinds; the message names the mend.
            PostgresBusy: another process starts or stops it and does not come to an end.
        """
        account_for(self._data)  # refuses what belongs to others before touching anything
        cluster.prepare(self.home)
        with deciding(self.home / "lock"):
            newly = not self._user.registered
            self._user.register()
            try:
                self._bring_up(account_for(self._data))
            except BaseException as error:
                if newly:
                    self._user.leave()
                    self._undo(error)
                raise
        return self.url

    def stop(self) -> None:
        """Gives up our hold; the last one shuts the server down. May be called again, and without a start.

        Raises:
            PostgresBusy: the server does not end.
        """
        if self._user.inherited:  # by a fork: the hold is the parent's
            self._user.forget()
        if not self._user.registered:
            return
        with deciding(self.home / "lock"):
            self._user.leave()
            if self._user.others() == 0:
                self._shut_down(signal.SIGINT, signal.SIGQUIT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _bring_up(self, account: Account) -> None:
        running = FileLock(self.home / "server.lock")
        if running.take():
            self._boot(account, running)
        else:
            self._adopt(account, running)
        try:
            prepare_database(socket_directory(self.home, account))
        except psycopg.Error as error:
            raise cluster.explain(self._data, f"{error}\n{cluster.tail(self._log, 0)}") from error

    def _boot(self, account: Account, running: FileLock) -> None:
        """Starts a server. `running` is ours, so no process of an earlier one is left; the new one inherits it."""
        try:
            programs = programs_for(account)
            if not self._data.exists():
                cluster.create(self._data, programs, account)
            else:
                cluster.check(self._data)
                cluster.configure(self._data, account)
            cluster.remove_traces_of_a_dead_server(self.home)
            socket_directory(self.home, account)
            pid, said = self._launch(programs, account, running)
        finally:
            running.release()
        try:
            self._await_ready(pid, said)
        except BaseException:
            processes.send(pid, signal.SIGQUIT)
            raise

    def _launch(self, programs: Path, account: Account, running: FileLock) -> tuple[int, int]:
        """Returns the server's pid, and where in the log it begins to speak."""
        with cluster.open_log(self._log) as log:
            said = os.fstat(log.fileno()).st_size
            # The shell ends at once and leaves the server without a parent: none of its users owns it, has to reap
            # it, or takes it along when it goes. Nor does it keep a pipe or a terminal of ours open.
            shell = subprocess.run(
                [
                    *("/bin/sh", "-c", '"$@" >&2 & echo $!', "sh"),
                    *(programs / "postgres", "-D", account.path_of(self._data)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._data,
                start_new_session=True,
                pass_fds=[running.fd],
                check=True,
                **account.spawn(),
            )
            return int(shell.stdout), said

    def _await_ready(self, pid: int, said: int) -> None:
        deadline = time.monotonic() + START_LIMIT
        while True:
            found = processes.postmaster(self._data)
            if found is not None and found.pid == pid and found.ready:
                return
            if not processes.alive(pid):
                raise cluster.explain(self._data, cluster.tail(self._log, said))
            if time.monotonic() > deadline:
                raise PostgresFailed(
                    f"the embedded database in {self.home} was not ready after {START_LIMIT:.0f} seconds. "
                    f"It last said:\n{cluster.tail(self._log, said)}"
                )
            time.sleep(BEAT)

    def _adopt(self, account: Account, running: FileLock) -> None:
        """Joins the server that runs already, or starts one when the last of its processes have ended."""
        deadline = time.monotonic() + START_LIMIT
        asked_to_end = False
        while not running.take():
            found = processes.postmaster(self._data)
            lives = found is not None and processes.is_postmaster(found.pid, self._data)
            if found is not None and found.ready:
                answer = door(socket_directory(self.home, account))
                if answer is Door.OPEN:
                    return
                if (
                    answer is Door.CLOSED and lives and not asked_to_end
                ):  # its socket was removed: nobody can reach it any more
                    processes.send(found.pid, signal.SIGINT)
                    asked_to_end = True
            if not lives:
                for orphan in processes.orphans(self._data):
                    processes.send(orphan, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise PostgresBusy(
                    f"a server holds {running.path}, and neither answers nor ends. It may run in another "
                    "container that shares this directory: stop that one first."
                )
            time.sleep(BEAT)
        self._boot(account, running)

    def _undo(self, error: BaseException) -> None:
        """After a start that failed: leaves no server behind that has no user."""
        try:
            if self._user.others() == 0:
                self._shut_down(signal.SIGQUIT)  # what cannot start may not be able to end in order either
        except BackstayError as further:
            error.add_note(further.detail)

    def _shut_down(self, *ways: signal.Signals) -> None:
        """SIGINT: roll back and write everything out. SIGQUIT: end at once, and recover at the next start."""
        running = FileLock(self.home / "server.lock")
        for kind in ways:
            if not running.take():
                found = processes.postmaster(self._data)
                if found is not None and processes.is_postmaster(found.pid, self._data):
                    processes.send(found.pid, kind)
            if running.held or running.wait(STOP_LIMIT):
                running.release()
                return
        raise PostgresBusy(
            f"the embedded database in {self.home} does not end. See {self._log}, and stop its processes by hand."
        )
