"""Definitions: those that the program declares, and those that the database has from others."""

from ...kernel import telemetry
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import ConfigurationError
from . import store
from .choice import missing
from .definition import Definition
from .models import MachineNotFound

_log = telemetry.log("machines")


class Registry:
    """The machines that this process knows."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._declared: dict[tuple[str, str], Definition] = {}
        self._newest: dict[str, Definition] = {}
        self._waiting: dict[tuple[str, str], Definition] = {}  # declared here and not yet in the database
        self._read: dict[tuple[str, str], Definition] = {}  # from the database, where they never change

    def declare(self, definition: Definition) -> None:
        """New instances take the version declared last.

        Raises:
            ConfigurationError: name and version are taken.
        """
        known_as = definition.name, definition.version
        if known_as in self._declared:
            raise ConfigurationError(
                f"the machine {definition.name!r} is declared twice in version {definition.version!r}; "
                "name or version must differ"
            )
        for warning in definition.warnings:
            _log.warning("a machine may never end", machine=definition.name, version=definition.version, why=warning)
        self._declared[known_as] = self._newest[definition.name] = self._waiting[known_as] = definition

    async def register(self) -> None:
        """Puts all that was declared into the database.

        Raises:
            ConfigurationError: another definition stands under the same name and version.
        """
        for definition in list(self._waiting.values()):
            await self.ensure(definition)

    async def ensure(self, definition: Definition) -> None:
        """Puts one definition into the database, where it then stands for good. It commits at once, on its own.

        Raises:
            ConfigurationError: another one stands under the same name and version.
        """
        known_as = definition.name, definition.version
        if known_as not in self._waiting:
            return
        async with self._db.system_tx() as tx:
            standing = await store.register(tx, definition.document, definition.fingerprint, self._clock.now())
        if standing != definition.fingerprint:
            raise ConfigurationError(
                f"the machine {definition.name!r} was registered in version {definition.version!r} with another "
                "definition, and instances go by that one: give the changed definition a new version, and keep "
                "the old one until its instances have ended"
            )
        self._waiting.pop(known_as, None)

    async def newest(self, tx: Tx, name: str) -> Definition:
        """The version that new instances take.

        Raises:
            MachineNotFound: none of that name was ever registered.
        """
        if name in self._newest:
            await self.ensure(self._newest[name])
            return self._newest[name]
        document = await store.newest(tx, name)
        if document is None:
            raise MachineNotFound(f"no state machine is called {name!r}")
        return Definition.stored(document, missing)

    async def of(self, tx: Tx, name: str, version: str) -> Definition:
        """The version of an instance. Without its code, its guards cannot be asked."""
        known_as = name, version
        if known_as in self._declared:
            await self.ensure(self._declared[known_as])
            return self._declared[known_as]
        if known_as not in self._read:
            document = await store.definition(tx, name, version)
            if document is None:
                raise MachineNotFound(f"no state machine is called {name!r} with the version {version!r}")
            self._read[known_as] = Definition.stored(document, missing)
        return self._read[known_as]
