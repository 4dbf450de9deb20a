// Checks with names: each runs whatever became of the others, and the report counts them.

/** Runs what it is told and remembers how it went. */
export class Checks {
  passed = 0;
  failures = [];
  notes = [];

  /** Runs one check; what it throws is its failure. */
  async check(name, body) {
    try {
      await within(LIMIT, body());
      this.passed += 1;
    } catch (error) {
      this.failures.push(`${name}: ${error?.stack ?? error}`);
    }
  }

  /** Says something that the report must not hide, such as what this server cannot do. */
  note(text) {
    this.notes.push(text);
  }

  /** What happened; the last line is the sum. */
  report() {
    const failed = this.failures.map((failure) => `FAILED ${failure}`);
    return [...failed, ...this.notes, `${this.passed} passed, ${this.failures.length} failed`].join("\n");
  }
}

/** Fails unless both are the same value, with arrays and objects compared by what they hold. */
export function equal(actual, expected) {
  if (show(actual) !== show(expected)) {
    throw new Error(`expected ${show(expected)}, found ${show(actual)}`);
  }
}

/** Fails unless the condition holds. */
export function holds(condition, what) {
  if (!condition) {
    throw new Error(what);
  }
}

/** Fails unless the promise is rejected with a message that matches, and returns the error. */
export async function rejects(promise, pattern) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    holds(pattern.test(error.message), `expected an error like ${pattern}, found: ${error.message}`);
    return error;
  }
  throw new Error(`expected an error like ${pattern}, found the value ${show(value)}`);
}

/** Waits until the condition holds. */
export async function eventually(what, condition) {
  const deadline = Date.now() + LIMIT;
  while (!(await condition())) {
    holds(Date.now() < deadline, `${what}: not within ${LIMIT} ms`);
    await sleep(10);
  }
}

/** A pause. */
export function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** A text in which different values differ: fields in order of their names, `undefined` and -0 by their names. */
function show(value) {
  return JSON.stringify(value, (_, part) => {
    if (part === undefined) return "«undefined»";
    if (typeof part === "number" && !Number.isFinite(part)) return `«${part}»`;
    if (Object.is(part, -0)) return "«-0»";
    if (part && typeof part === "object" && !Array.isArray(part)) {
      return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
    }
    return part;
  });
}

async function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// Above what anything waits for by itself, which is 5 s.
const LIMIT = 10_000;
