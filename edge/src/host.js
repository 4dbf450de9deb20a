// What the runtime is asked for. It decides nothing.

/** Writes a line of JSON to the log. */
export function log(level, line) {
  console[level](line);
}

/** Where those wait who wait for the store, or for a signature. What waits here and not in wasm survives a panic there. */
export class Road {
  /** Imported, by their JWKs: as many as a policy has. */
  keys = new Map();

  constructor({ constructor: core }, store, authorization) {
    Object.assign(this, { core, store, authorization });
  }

  /** Posts a pipeline to the store, and hands what comes to who decides by it, and waits with this ticket. */
  ask(...question) {
    return this.carry("came", ...question);
  }

  /** The same of what nobody decides by. */
  tell(...question) {
    return this.carry("told", ...question);
  }

  async carry(onward, ticket, body, ms, ...carried) {
    let [status, came, failure] = [0, "", undefined];
    try {
      came = await this.post(body, ms, (response) => {
        status = response.status;
        return text(response);
      });
    } catch (error) {
      failure = String(error?.name);
    }
    // If another request panicked, wasm starts anew with the next call, which must not bring a text that lies in the old one's memory.
    this.core.wake?.();
    return this.core[onward](ticket, status, came, failure, ...carried);
  }

  /** What `read` makes of the store's response; rejects with a `TimeoutError` when `ms` are over. */
  post(body, ms, read) {
    const { authorization } = this;
    const headers = { authorization, "content-type": "application/json" };
    // A store that sends us elsewhere does not get our token sent there.
    return this.within(ms, this.store, { method: "POST", headers, body, redirect: "manual" }, read);
  }

  within(ms, url, init, read) {
    return fetch(url, { ...init, signal: AbortSignal.timeout(ms) }).then(read);
  }

  /** Has the platform say whether one of these keys made a signature, and hands that to who waits with this ticket. */
  async verify(ticket, jwks, name, hash, namedCurve, signed, signature, carried) {
    // Both lie in wasm's memory, which is others' as soon as anything is waited for.
    const [data, made] = [signed.slice(), signature.slice()];
    const algorithm = { name, hash, namedCurve };
    let holds = false;
    for (const jwk of jwks.split("\n")) holds ||= await this.holds(jwk, algorithm, made, data);
    this.core.wake?.();
    return this.core.verified(ticket, holds, carried);
  }

  async holds(jwk, algorithm, signature, data) {
    const { subtle } = crypto;
    try {
      let key = this.keys.get(jwk);
      if (key === undefined) {
        key = await subtle.importKey("jwk", JSON.parse(jwk), algorithm, false, ["verify"]);
        this.keys.set(jwk, key);
      }
      return await subtle.verify(algorithm, key, signature, data);
    } catch {
      // A key that is none, or one of a kind that the platform does not know, made no signature.
      return false;
    }
  }
}

// What follows is for Workers. In their runtime each promise costs microseconds, each text that crosses from wasm some more, and
// each `AbortController` twenty. So texts that stay the same cross once, and what took too long is not aborted but left behind:
// the runtime ends it with its request.

/** Where requests wait for the origin, too. */
export class Front extends Road {
  /** `origin` has no slash at its end. Its answers have to begin within `patience` milliseconds. */
  constructor(core, origin, patience, store, authorization, dataset) {
    super(core, store, authorization);
    Object.assign(this, { origin, patience, dataset, failures: {} });
  }

  /** What is told when the origin fails in some way; without the body if it must not be sent. */
  failing(kind, status, fields, body) {
    this.failures[kind] = (head) => answer(status, fields, body, head);
  }

  /** @returns {Promise<number>} the status with which the store answers */
  ping(ms) {
    return this.post('[["PING"]]', ms, (response) => text(response).then(() => response.status));
  }

  within(ms, url, init, read) {
    return within(ms, fetch(url, init).then(read));
  }

  /**
   * Sends a request on to the origin, and adds fields to the answer. It has to begin in time; then it may take as long as it likes.
   * `onward` are fields that the origin is to see, or not at all. With a ticket something is left to do with the answer, which goes
   * only if that is `confirms`, or until the end of which something is `held`.
   * @returns {Promise<Response>}
   */
  async forward(request, fields, onward, ticket, held, confirms, context) {
    const { url } = request;
    const authority = url.indexOf("//") + 2;
    const length = url.slice(authority).search(/[/?]/);
    const target = length < 0 ? url.length : authority + length;
    const { method, body } = request;
    const headers = new Headers(request.headers);
    headers.set("x-forwarded-host", url.slice(authority, target).toLowerCase());
    headers.set("x-forwarded-proto", url.slice(0, authority - 3));
    if (onward !== undefined) {
      for (const [name, value] of pairs(onward)) value === "" ? headers.delete(name) : headers.set(name, value);
    }
    // Not a `Request` made of the other one: it would be copied once more, which takes a tenth of all the time of a request.
    const init = { method, headers, body, redirect: "manual" };
    // What is held is held until the last byte of the body has been seen, and that must come as it was sent.
    if (held) init.encodeResponseBody = "manual";
    let response;
    try {
      response = await within(this.patience, fetch(this.origin + url.slice(target), init));
    } catch (error) {
      const kind = error?.name === "TimeoutError" ? "timeout" : "unreachable";
      if (this.dataset) point(this.dataset, "origin", `origin\n${kind}`, [1]);
      response = this.failures[kind](method === "HEAD");
    }
    let seen = false;
    if (ticket !== undefined) {
      seen = held && method !== "HEAD" && response.body !== null;
      // Nobody sees the end of a WebSocket: what it holds ends by its time.
      const lasts = seen || (held && response.webSocket != null);
      this.core.wake();
      const instead = await this.core.answered(ticket, response.status, lasts, confirms, context);
      if (instead !== true) {
        await response.body?.cancel();
        return instead;
      }
    }
    if (fields === "" && !seen) return response;
    // What `fetch` gives cannot be changed, so this is a copy; its body is not read.
    const copy = seen ? this.watched(response, ticket, context) : new Response(response.body, response);
    for (const [name, value] of pairs(fields)) copy.headers.set(name, value);
    return copy;
  }

  /** A copy, the end of whose body is told, or that nobody wants the rest of it. */
  watched(response, ticket, context) {
    const { body, status, statusText, headers } = response;
    const length = headers.get("content-length");
    const { readable, writable } =
      length === null ? new IdentityTransformStream() : new FixedLengthStream(Number(length));
    const ended = () => {
      this.core.wake();
      return this.core.ended(ticket, context);
    };
    context.waitUntil(body.pipeTo(writable).then(ended, ended));
    return new Response(readable, { status, statusText, headers, encodeBody: "manual" });
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
