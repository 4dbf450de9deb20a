// What the runtime is asked for. It decides nothing.

/**
 * Posts a pipeline to the store.
 * @returns {Promise<[number, string]>} status and text; rejects with a `TimeoutError` when `ms` are over
 */
export async function post(url, authorization, body, ms) {
  const response = await fetch(url, { ...question(authorization, body), signal: AbortSignal.timeout(ms) });
  return [response.status, await text(response)];
}

/** Writes a line of JSON to the log. */
export function log(level, line) {
  console[level](line);
}

// What follows is for Workers. In their runtime each promise costs microseconds, each text that crosses from wasm some more, and
// each `AbortController` twenty. So texts that stay the same cross once, and what took too long is not aborted but left behind:
// the runtime ends it with its request.

/** Where requests wait: for the store, and for the origin. What waits here and not in wasm survives a panic there. */
export class Front {
  /** `origin` has no slash at its end. Its answers have to begin within `patience` milliseconds. */
  constructor({ constructor: core }, origin, patience, store, authorization, dataset) {
    Object.assign(this, { core, origin, patience, store, authorization, dataset, failures: {} });
  }

  /** What is told when the origin fails in some way; without the body if it must not be sent. */
  tell(kind, status, fields, body) {
    this.failures[kind] = (head) => answer(status, fields, body, head);
  }

  /**
   * Posts a pipeline to the store, and hands what comes to who waits with this ticket.
   * @returns {Promise<Response>}
   */
  async ask(ticket, request, env, context, body, ms) {
    let [status, came, failure] = [0, "", undefined];
    try {
      const answered = fetch(this.store, question(this.authorization, body)).then((response) => {
        status = response.status;
        return text(response);
      });
      came = await within(ms, answered);
    } catch (error) {
      failure = String(error?.name);
    }
    // If another request panicked, wasm starts anew with the next call, which must not bring a text that lies in the old one's memory.
    this.core.wake();
    return this.core.came(ticket, status, came, failure, request, env, context);
  }

  /**
   * Sends a request on to the origin, and adds fields to the answer. It has to begin in time; then it may take as long as it likes.
   * @returns {Promise<Response>}
   */
  async forward(request, fields) {
    const { url } = request;
    const authority = url.indexOf("//") + 2;
    const length = url.slice(authority).search(/[/?]/);
    const target = length < 0 ? url.length : authority + length;
    const { method, body } = request;
    const headers = new Headers(request.headers);
    headers.set("x-forwarded-host", url.slice(authority, target).toLowerCase());
    headers.set("x-forwarded-proto", url.slice(0, authority - 3));
    // Not a `Request` made of the other one: it would be copied once more, which takes a tenth of all the time of a request.
    const onward = { method, headers, body, redirect: "manual" };
    let response;
    try {
      response = await within(this.patience, fetch(this.origin + url.slice(target), onward));
    } catch (error) {
      const kind = error?.name === "TimeoutError" ? "timeout" : "unreachable";
      if (this.dataset) point(this.dataset, "origin", `origin\n${kind}`, [1]);
      response = this.failures[kind](method === "HEAD");
    }
    if (fields === "") return response;
    // What `fetch` gives cannot be changed, so this is a copy; its body is not read.
    const copy = new Response(response.body, response);
    for (const [name, value] of pairs(fields)) copy.headers.set(name, value);
    return copy;
  }
}

let tickets = 0;

/** A number that nobody who waits has. */
export function ticket() {
  return ++tickets;
}

/** A response of our own; `head` says that its body must not be sent. */
export function answer(status, fields, body, head) {
  return new Response(head ? null : body, { status, headers: pairs(fields) });
}

/** Hands a data point to Analytics Engine. */
export function point(dataset, index, blobs, doubles) {
  // Numbers come as a typed array, and only a plain one will do.
  dataset.writeDataPoint({ indexes: [index], blobs: blobs.split("\n"), doubles: Array.from(doubles) });
}

function question(authorization, body) {
  const headers = { authorization, "content-type": "application/json" };
  // A store that sends us elsewhere does not get our token sent there.
  return { method: "POST", headers, body, redirect: "manual" };
}

/** What `promise` comes to, unless `ms` are over first. One promise instead of the four of a race. */
function within(ms, promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new DOMException("it took too long", "TimeoutError")), ms);
    const settle = (how) => (came) => {
      clearTimeout(timer);
      how(came);
    };
    promise.then(settle(resolve), settle(reject));
  });
}

/** The body, unless it is larger than any answer to what we asked. */
async function text(response) {
  const { headers } = response;
  const length = headers.get("content-length");
  if (length !== null && !headers.has("content-encoding")) {
    if (Number(length) > LARGEST) throw new RangeError("the store's answer is too large");
    return response.text();
  }
  const decoder = new TextDecoder();
  let [whole, size] = ["", 0];
  for await (const piece of response.body ?? []) {
    size += piece.byteLength;
    if (size > LARGEST) throw new RangeError("the store's answer is too large");
    whole += decoder.decode(piece, { stream: true });
  }
  return whole + decoder.decode();
}

/** Alternating names and values, one in each line. */
function pairs(fields) {
  const lines = fields.split("\n");
  const found = [];
  for (let at = 0; at + 1 < lines.length; at += 2) found.push([lines[at], lines[at + 1]]);
  return found;
}

/** Bytes. */
const LARGEST = 16 << 20;
