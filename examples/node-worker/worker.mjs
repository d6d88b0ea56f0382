// A worker for Backstay in Node, with nothing but fetch. Needs Node 18 or newer.
//
//   BACKSTAY_ADDRESS=http://127.0.0.1:8080 BACKSTAY_KEY=bs_… node worker.mjs
//
// The protocol it speaks is described in docs/reference/worker-protocol.md.

const address = process.env.BACKSTAY_ADDRESS ?? "http://127.0.0.1:8080";
const key = process.env.BACKSTAY_KEY;
const concurrency = Number(process.env.CONCURRENCY ?? 5);
const leaseSeconds = Number(process.env.LEASE_SECONDS ?? 30);

// Your jobs. A handler gets the input and { job, claim, attempt, signal }; `job` is a good idempotency key for calls
// to the outside, for a job may run again when a worker dies in the middle.
const handlers = {
  async shout(input, { job, attempt }) {
    console.log(`begin ${job} ${attempt}`);
    await sleep(input.milliseconds ?? 0);
    console.log(`${input.text.toUpperCase()}!`);
  },
};

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const running = new Map(); // claim → { job, abort }
let worker = null; // the registration; null: there is none, and nothing may be claimed
let stopping = false;

/**
 * One request. Network errors and 5xx are repeated with the same idempotency key for as long as it is `worthwhile`;
 * a refusal is thrown.
 */
async function ask(method, path, body, { once, worthwhile = () => true } = {}) {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  if (once) headers["idempotency-key"] = once;
  for (let wait = 100; ; wait = Math.min(wait * 2, 2000)) {
    let trouble;
    try {
      const signal = AbortSignal.timeout(40_000);
      const answer = await fetch(address + path, { method, headers, signal, body: body && JSON.stringify(body) });
      const text = await answer.text();
      if (answer.ok) return text ? JSON.parse(text) : null;
      trouble = `${answer.status} ${text}`;
      if (answer.status < 500 && answer.status !== 429) {
        throw Object.assign(new Error(trouble), { refused: true, code: JSON.parse(text).code });
      }
    } catch (error) {
      if (error.refused) throw error;
      trouble = error.cause?.code ?? error.message;
    }
    if (!worthwhile()) throw new Error(`${method} ${path}: ${trouble}`);
    console.error(`${method} ${path}: ${trouble}; again`);
    await sleep(wait);
  }
}

async function register() {
  const jobs = Object.keys(handlers).map((name) => ({ name }));
  const began = Date.now();
  worker = await ask("POST", "/api/workers", { name: `node:${process.pid}`, jobs, lease_seconds: leaseSeconds });
  worker.aliveUntil = began + leaseSeconds * 1000;
  console.log(`worker ${worker.id}`);
}

/** The lease is over or not to be had any more: others may have our jobs, so ours stop. */
function lapse(why) {
  console.error(`this worker stops its own work: ${why}`);
  worker = null;
  for (const { abort } of running.values()) abort.abort(new Error(why));
  running.clear();
}

/** Renews the lease three times in its length. */
async function keepLease() {
  let unknown = new Set();
  for (;;) {
    await sleep((leaseSeconds * 1000) / 3);
    const mine = worker;
    if (!mine) continue;
    const began = Date.now();
    try {
      const worthwhile = () => worker === mine;
      const beat = await ask("POST", `/api/workers/${mine.id}/heartbeat`, undefined, { worthwhile });
      if (worker !== mine) continue;
      mine.aliveUntil = began + leaseSeconds * 1000;
      unknown = await compare(mine, beat.claims, unknown);
    } catch (error) {
      if (worker === mine) lapse(error.message);
    }
  }
}

/** Stops our own work when the heartbeat is late, before others may take it: the last fifth is for handlers to stop. */
async function watchLease() {
  for (;;) {
    await sleep(leaseSeconds * 20);
    if (worker && Date.now() > worker.aliveUntil - leaseSeconds * 200) lapse("the heartbeat is late");
  }
}

/** Stops what was cancelled or is another's by now; gives back what we do not know of: its answer never came. */
async function compare(mine, claims, unknownBefore) {
  const held = new Map(claims.map((claim) => [claim.claim, claim]));
  for (const [claim, { abort }] of running) {
    if (held.get(claim)?.cancelling) abort.abort(new Error("cancelled on request"));
  }
  const unknown = new Set([...held.keys()].filter((claim) => !running.has(claim)));
  for (const claim of unknown) {
    // Seen twice, because an answer may be under way.
    if (unknownBefore.has(claim)) await answer(mine, held.get(claim), "release").catch(() => {});
  }
  return unknown;
}

const answer = (mine, { job, claim }, what, body = {}) =>
  ask("POST", `/api/workers/${mine.id}/jobs/${job}/${what}`, { claim, ...body }, {
    once: `${claim}-${what}`,
    worthwhile: () => worker === mine,
  });

async function run(job, mine) {
  const abort = new AbortController();
  running.set(job.claim, { job: job.job, abort });
  try {
    const input = job.input_is_large
      ? await ask("GET", `/api/workers/${mine.id}/jobs/${job.job}/input?claim=${job.claim}`)
      : job.input;
    let failure = null;
    try {
      await handlers[job.name](input, { ...job, signal: abort.signal });
    } catch (error) {
      failure = error;
    }
    if (worker !== mine) return; // the lease is over: another has the job
    if (failure && abort.signal.aborted) await answer(mine, job, "cancel", { reason: failure.message || "cancelled" });
    else if (failure) await answer(mine, job, "fail", { error: String(failure.stack ?? failure).slice(0, 4000) });
    else await answer(mine, job, "complete");
  } catch (error) {
    console.error(error.message); // job_lost: another has it
  } finally {
    running.delete(job.claim);
  }
}

async function work() {
  while (!stopping) {
    if (!worker) await register();
    const mine = worker;
    const limit = concurrency - running.size;
    if (limit <= 0) {
      await sleep(10);
      continue;
    }
    try {
      const { jobs } = await ask("POST", `/api/workers/${mine.id}/claim`, { limit, wait_seconds: 10 }, {
        worthwhile: () => worker === mine,
      });
      for (const job of jobs) {
        // The lease may have lapsed meanwhile, and then these are for others.
        if (worker === mine) void run(job, mine);
      }
    } catch (error) {
      if (error.refused && error.code !== "worker_lost") throw error; // the key is wrong, say
      if (worker === mine) lapse(error.message);
    }
  }
}

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    stopping = true; // running jobs may end; what was claimed meanwhile is given to others when we leave
    const ends = Date.now() + 20_000;
    while (running.size && Date.now() < ends) await sleep(20);
    if (worker) await ask("DELETE", `/api/workers/${worker.id}`).catch(() => {});
    process.exit(0);
  });
}

void keepLease();
void watchLease();
await work();
