"""A support desk: a ticket and the run that answers it commit together; the agent searches, and answers by mail.

    export BACKSTAY_APP=desk:app DESK_MODEL=openai:gpt-5-mini   # without a model of yours, the simulator answers
    backstay up &
    uvicorn desk:api --port 8001
    curl -s localhost:8001/tickets -H 'content-type: application/json' \
        -d '{"id": "01a20d91-8e8f-77ce-9b48-ed004ff71abe", "text": "How do I get my money back?"}'
"""

import os
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel

from backstay import App, Run

app = App.from_env()
app.model("smart", os.environ.get("DESK_MODEL", "sim:tools"))

HELP = {
    "refunds": "Money comes back within 14 days, to the card that was used.",
    "delivery": "Parcels arrive within three days.",
}


class Ticket(BaseModel):
    id: UUID
    text: str


@app.tool
async def search_help(query: str) -> list[str]:
    """Search the help pages about money, refunds and delivery.

    Args:
        query: What to look for, in words.
    """
    words = query.lower().split()
    return [text for title, text in HELP.items() if any(word in f"{title} {text}".lower() for word in words)]


desk = app.agent("desk", model="smart", tools=[search_help], instructions="Be kind.", max_steps=10)


async def send_email(ticket: Ticket, reply: str, *, idempotency_key: str) -> None:
    print(f"{idempotency_key}: to the writer of {ticket.id}: {reply}")


@app.workflow
async def answer(run: Run, ticket: Ticket) -> str:
    reply = await desk.reply(run, ticket.text)  # each model and tool call is a durable step
    await run.step(send_email, ticket, reply)
    return reply


api = FastAPI(lifespan=app.lifespan)
api.mount("/ai", app)


@api.post("/tickets", status_code=202)
async def open_ticket(ticket: Ticket) -> UUID:
    async with app.transaction() as tx:  # the row and the run commit together, or not at all
        await tx.execute("insert into ticket values (%s, %s)", [ticket.id, ticket.text])
        return (await answer.start(ticket, key=ticket.id, tx=tx)).id
