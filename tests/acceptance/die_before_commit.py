"""Writes everything in one transaction, says so, and waits to be killed before the commit."""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parent))

from test_one_commit import write_everything

from backstay.app import App
from backstay.kernel.principal import Principal


async def main() -> None:
    by = Principal.system(UUID(sys.argv[1]), "doomed")
    async with App.from_env() as app, app.transaction(by.tenant) as tx:
        await write_everything(app, by, tx)
        print("written", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
