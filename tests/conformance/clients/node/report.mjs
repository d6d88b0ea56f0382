// Runs checks one after the other and prints what they gave as one JSON object: { subject: { check: value } }.

export const address = process.env.ADDRESS;
export const key = process.env.KEY;

export async function report(subjects, checks) {
  const found = {};
  for (const [subject, make] of Object.entries(subjects)) {
    found[subject] = {};
    for (const [name, check] of Object.entries(checks)) {
      found[subject][name] = await tried(() => check(make));
    }
  }
  process.stdout.write(JSON.stringify(found));
}

async function tried(check) {
  try {
    return await check();
  } catch (error) {
    return { unexpected: `${error.name}: ${error.message}`, stack: error.stack };
  }
}

// What went wrong, as far as a program can act on it.
export function told(error) {
  return { name: error.name, kind: error.constructor.name, status: error.statusCode ?? error.status ?? null, message: error.message };
}

export async function failure(act) {
  try {
    await act();
  } catch (error) {
    return told(error);
  }
  return null;
}
