// What the runtime is asked for. It decides nothing.

/** Writes a line of JSON to the log. */
export function log(level, line) {
  console[level](line);
}

/** Where those wait who wait for the store, for a signature, or for keys. What waits here and not in wasm survives a panic there. */
export class Road {
  /** Imported, by their JWKs: at most as many as a policy may have, and as many as may be fetched. */
  keys = new Map();
  /** Whether a request may wait for what another one has begun. In Workers that ends with the request that has begun it. */
  shares = false;

  constructor({ constructor: core }, store, authorization) {
    Object.assign(this, { core, store, authorization });
  }

  /** Fields of ours, as this runtime takes them. */
  encoded(fields) {
    return fields.map(([name, value]) => [name, encoded(value)]);
  }

  /** The URL of a request, which is decided on; nothing if it is none. */
  url(request) {
    return url(request);
  }

  /** Whether a response has a status that an answer may have. */
  isFinal(response) {
    return isFinal(response);
  }

  /** A response that can be changed, with this body. */
  copy(response, body) {
    return copy(response, body);
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

  /** Has who waits with this ticket go on in `ms`. */
  async sleep(ticket, ms, carried) {
    await new Promise((over) => setTimeout(over, ms));
    this.core.wake?.();
    return this.core.woken(ticket, carried);
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

  /** Has keys of tokens fetched, and hands at most so many bytes of them to who waits with this ticket, or else what went wrong. */
  async fetchKeys(ticket, url, most, ms, carried) {
    const begin = () => this.document(url, most, ms);
    const forget = () => {
      this.fetching = undefined;
    };
    const [document, failure] = await (this.shares ? (this.fetching ??= begin().finally(forget)) : begin());
    this.core.wake?.();
    return this.core.fetched(ticket, document, failure, carried);
  }

  /** The first bytes of a document, or else what went wrong. */
  async document(url, most, ms) {
    const read = async ({ status, body }) => {
      if (status === 200) return [await this.peek(body, most)];
      await body?.cancel();
      return [undefined, `status ${status}`];
    };
    try {
      // What sends us elsewhere is not what the policy trusts.
      return await this.within(ms, url, { redirect: "manual" }, read);
    } catch (error) {
      return [undefined, String(error?.message)];
    }
  }

  /**
   * A way for the body of a response, which is sent on as it comes as soon as the function is
   * called: that has the core told its end, and with `left` of 2 what is in it, and promises the
   * time when all is told. Where the client has left before there was an answer, nobody reads it:
   * `signal` says so.
   * @returns {[ReadableStream | null, Function]}
   */
  watch({ headers, body }) {
    let [whole, piece] = [true, undefined];
    const broken = () => {
      whole = false;
    };
    // Of the runtime's own streams, an idle one does not notice that nobody wants the rest.
    const way = new TransformStream({
      expectedLength: lengthOf(headers),
      transform(bytes, onward) {
        piece?.(bytes);
        onward.enqueue(bytes);
      },
      cancel: broken,
    });
    const begin = (ticket, left, signal, carried) => {
      const told = () => {
        if (left === 0) return undefined;
        this.core.wake?.();
        return this.core.ended(ticket, whole, carried);
      };
      if (left === 2) {
        this.core.wake?.();
        this.core.fields(ticket, [...headers].map(([name, value]) => `${name}\n${decoded(value)}`).join("\n"));
        piece = (bytes) => {
          this.core.wake?.();
          this.core.piece(ticket, bytes);
        };
      }
      const sent = body === null ? Promise.resolve() : body.pipeTo(way.writable, { signal }).catch(broken);
      return sent.then(told);
    };
    return [body && way.readable, begin];
  }

  /** The first bytes of a body of which nobody wants the rest here. */
  async peek(body, most) {
    const reader = body?.getReader();
    const { begun } = await begin(reader, most);
    abandon(reader);
    return begun;
  }

  async holds(jwk, algorithm, signature, data) {
    const { subtle } = crypto;
    try {
      let key = this.keys.get(jwk);
      if (key === undefined) {
        key = await subtle.importKey("jwk", JSON.parse(jwk), algorithm, false, ["verify"]);
        if (this.keys.size >= MOST_KEYS) this.keys.delete(this.keys.keys().next().value);
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
    const own = body.slice();
    this.failures[kind] = (head) => answer(status, fields, own, head);
  }

  within(ms, url, init, read) {
    return within(ms, fetch(url, init).then(read));
  }

  /** Reads the first bytes of a body, and begins with the request anew. */
  async read(request, env, context, most) {
    let again;
    try {
      again = await read(request, most);
    } catch {
      // The origin has not been asked, and nothing is held yet.
      return this.failures.incomplete(request.method === "HEAD");
    }
    this.core.wake();
    return this.core.fetch(again, env, context);
  }

  /**
   * Sends a request on to the origin, and adds fields to the answer. `onward` are fields that the origin is to see, or not at all. With a
   * ticket something is left to do with the answer: it goes only if the core `confirms` it, or something `lasts` until its end.
   * @returns {Promise<Response>}
   */
  async forward(request, fields, onward, ticket, lasts, confirms, context) {
    const { method } = request;
    // The same text that was decided on. It has no dot segments, so what is put together of it is below the origin's own path.
    const target = url(request);
    const authority = target.indexOf("//") + 2;
    const path = target.indexOf("/", authority);
    const headers = new Headers(request.headers);
    headers.set("x-forwarded-host", target.slice(authority, path));
    headers.set("x-forwarded-proto", target.slice(0, authority - 3));
    // With this field `fetch` makes a `GET` of any request, which is not the one that was decided on.
    if (method !== "GET") headers.delete("upgrade");
    if (onward !== undefined) {
      for (const [name, value] of pairs(onward)) value === "" ? headers.delete(name) : headers.set(name, value);
    }
    // Not a `Request` made of the other one: it would be copied once more, which takes a tenth of all the time of a request.
    const init = { method, headers, redirect: "manual" };
    // A body whose end is waited for is read on its way, and has to arrive as it was sent all the same.
    if (lasts) init.encodeResponseBody = "manual";
    // All that may fail is done before the core is told that there is an answer.
    const ready = (response) => this.ready(response, method, fields, lasts);
    let [answer, isClients] = [undefined, false];
    try {
      answer = ready(await this.send(request, this.origin + target.slice(path), init));
    } catch (error) {
      const kind = FAILURES[error?.name] ?? "unreachable";
      isClients = kind !== "unreachable" && kind !== "timeout";
      if (this.dataset && !isClients) point(this.dataset, "origin", `origin\n${kind}`, [1]);
      answer = ready(this.failures[kind](method === "HEAD"));
    }
    const { body, page, begin } = answer;
    if (ticket === undefined) return page;
    let left = 0;
    this.core.wake();
    if (isClients) this.core.abandoned(ticket, context);
    else left = await this.core.answered(ticket, page.status, confirms, context);
    if (typeof left === "object") {
      abandon(body);
      return left;
    }
    if (begin) context.waitUntil(begin(ticket, left, request.signal, context));
    return page;
  }

  /**
   * An answer for the client, whose body begins to be sent on when `begin` is called, if there is
   * that. Throws if it cannot be one.
   */
  ready(response, method, fields, lasts) {
    const { body, webSocket } = response;
    try {
      if (!webSocket && !isFinal(response)) throw failure("StatusError");
      // Nobody sees the end of a WebSocket: what it holds ends by its time.
      const [sent, begin] =
        lasts && !webSocket ? this.watch(method === "HEAD" ? { headers: response.headers, body: null } : response) : [body];
      if (fields === "" && !begin) return { body, page: response };
      // What `fetch` gives cannot be changed.
      const page = copy(response, sent, begin && "manual");
      for (const [name, value] of pairs(fields)) page.headers.set(name, value);
      return { body, page, begin };
    } catch (error) {
      abandon(body);
      throw error;
    }
  }

  /** The origin's answer, which has to begin in time when all of the request has been sent; then it may take as long as it likes. */
  send(request, url, init) {
    const { method, body } = request;
    if (!body) return within(this.patience, fetch(url, init));
    // One that was read whole before the decision.
    if (body instanceof Uint8Array) return within(this.patience, fetch(url, { ...init, body }));
    if (method === "GET" || method === "HEAD") return this.sendWhole(request, url, init);
    return this.sendOn(body, url, init);
  }

  /** Sends a request whose body streams, after what has been read of it. Rejects with an `IncompleteError` if it is the client that breaks off. */
  sendOn(body, url, init) {
    const { first, rest = body } = body;
    const { readable, writable } = stream(init.headers);
    const exchange = new AbortController();
    Object.assign(init, { body: readable, signal: exchange.signal });
    return new Promise((resolve, reject) => {
      let timer;
      let isOver = false;
      const settle = (how) => (came) => {
        isOver = true;
        clearTimeout(timer);
        how(came);
      };
      fetch(url, init).then(settle(resolve), settle(reject));
      // What happens at one end is kept from the other, so that it is known which of them broke off.
      const sent = () => {
        if (!isOver) timer = setTimeout(() => settle(reject)(tooLong()), this.patience);
      };
      const broken = (error) => {
        // If it is the origin that broke off, the request can still be read: `fetch` tells.
        rest.getReader().closed.catch(() => {
          if (!isOver) settle(reject)(failure("IncompleteError"));
          // Not the stream alone: workerd ends one without a length as if it were whole.
          exchange.abort(error);
        });
      };
      const pump = () => rest.pipeTo(writable, { preventAbort: true, preventCancel: true });
      (first === undefined ? pump() : write(writable, first).then(pump)).then(sent, broken);
    });
  }

  /** Sends a request whose method usually has no body. `fetch` takes one only as another request has it, and only with its length. */
  async sendWhole(request, url, init) {
    const original = request.original ?? request;
    const reader = original.clone().body.getReader();
    const { whole, ended } = await begin(reader, LONGEST_OF_GET + 1).catch(() => {
      throw failure("IncompleteError");
    });
    if (!ended) {
      abandon(reader);
      abandon(original.body);
      throw failure("LengthError");
    }
    if (whole.byteLength === 0) return within(this.patience, fetch(url, init));
    // With this field `fetch` leaves the body out.
    init.headers.delete("upgrade");
    if (!init.headers.has("content-length")) throw failure("UnsizedError");
    const { method, ...others } = init;
    // The answer is waited for if the client leaves, so its signal stays behind.
    return within(this.patience, fetch(new Request(url, original), { ...others, signal: null }));
  }
}

let tickets = 0;

/** A number that nobody who waits has. */
export function ticket() {
  return ++tickets;
}

/** A response of our own; `head` says that its body must not be sent. */
export function answer(status, fields, body, head) {
  // It lies in wasm's memory. One that was encoded when it was first given is encoded already.
  return new Response(head ? null : body.slice(), { status, headers: pairs(fields), encodeBody: "manual" });
}

/** What `read` has read of the body of a request. */
export function begun(request) {
  return request.begun;
}

/** A request whose body has been begun: `begun` are its first bytes, and `body` has them still, as bytes or in front of the `rest`. */
async function read(request, most) {
  const { url, method, headers, body, signal } = request;
  if (body && (method === "GET" || method === "HEAD")) {
    // It can only be sent on as it came.
    const reader = request.clone().body.getReader();
    const { begun } = await begin(reader, most);
    abandon(reader);
    return { url, method, headers, signal, begun, body, original: request };
  }
  const reader = body?.getReader();
  const { begun, whole, ended } = await begin(reader, most);
  // Nothing that is whole needs a stream.
  if (ended) return { url, method, headers, signal, begun, body: body && whole };
  reader.releaseLock();
  return { url, method, headers, signal, begun, body: { first: whole, rest: body } };
}

/** Reads until `most` bytes have come: these, and all that has come. */
async function begin(reader, most) {
  const pieces = [];
  let [size, ended] = [0, reader === undefined];
  while (!ended && size < most) {
    const { done, value } = await reader.read();
    ended = done;
    if (!done) {
      pieces.push(value);
      size += value.byteLength;
    }
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return { begun: whole.subarray(0, most), whole, ended };
}

async function write(writable, bytes) {
  const writer = writable.getWriter();
  await writer.write(bytes);
  writer.releaseLock();
}

/** A way for bytes, which says how many if that is known. */
function stream(headers) {
  const length = lengthOf(headers);
  if (length === undefined) return new IdentityTransformStream();
  // Of a longer one the runtime makes no stream, and that is not the origin's fault.
  if (!Number.isSafeInteger(length)) throw failure("LengthError");
  return new FixedLengthStream(length);
}

/**
 * What a message says is the length of its body, if it does. The same in several lines is one list
 * (RFC 9110, 8.6).
 */
function lengthOf(headers) {
  const length = Number.parseInt(headers.get("content-length") ?? "", 10);
  return Number.isNaN(length) ? undefined : length;
}

/**
 * Whether a response has a status that an answer may have. Runtimes take others from an upstream,
 * but make no response with them.
 */
function isFinal({ status }) {
  return status >= 200 && status <= 599;
}

/**
 * A response that can be changed, with this body. Its reason phrase is left out if it is one that
 * runtimes make no response with.
 */
function copy(response, body, encodeBody) {
  const { status, statusText, headers, webSocket } = response;
  const isOdd = /[^ -~]/.test(statusText);
  if (!isOdd && encodeBody === undefined) return new Response(body, response);
  return new Response(body, { status, statusText: isOdd ? "" : statusText, headers, webSocket, encodeBody });
}

/**
 * Hands a data point to Analytics Engine. A request that holds something must not end because that
 * takes no more.
 */
export function point(dataset, index, blobs, doubles) {
  try {
    // Numbers come as a typed array, and only a plain one will do.
    dataset.writeDataPoint({ indexes: [index], blobs: blobs.split("\n"), doubles: Array.from(doubles) });
  } catch (error) {
    if (!isPointLost) log("warn", JSON.stringify({ message: `TOLLGATE_METRICS: a data point was lost: ${error?.message}` }));
    isPointLost = true;
  }
}

let isPointLost = false;

/** What `promise` comes to, unless `ms` are over first. One promise instead of the four of a race. */
function within(ms, promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(tooLong()), ms);
    const settle = (how) => (came) => {
      clearTimeout(timer);
      how(came);
    };
    promise.then(settle(resolve), settle(reject));
  });
}

function tooLong() {
  return failure("TimeoutError");
}

/** An error that is known by its name. */
function failure(name) {
  return new DOMException("", name);
}

/** Says that nobody wants the rest. Nobody waits for that either: half of a stream that was cloned ends only when the other one does. */
function abandon(stream) {
  stream?.cancel().catch(() => {});
}

/** The body, unless it is larger than any answer to what we asked. */
async function text(response) {
  const { headers } = response;
  const length = lengthOf(headers);
  if (length !== undefined && !headers.has("content-encoding")) {
    if (length > LARGEST) throw new RangeError("the store's answer is too large");
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

/**
 * A URL for HTTP as the URL standard writes it, without credentials and fragment; nothing if it is none. What is decided on and what is
 * fetched are this one text: a runtime may give the request as it was sent, and then the two would read it differently.
 */
export function serialized(url) {
  // Nearly all are written so already, and an object for each request is saved.
  if (SERIALIZED.test(url)) return url;
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    return undefined;
  }
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") return undefined;
  parsed.username = parsed.password = parsed.hash = "";
  return parsed.href;
}

/** The text that the bytes of a field's value are. What is no UTF-8 has U+FFFD in it. */
function decoded(value) {
  if (isPlain(value)) return value;
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(value, (one) => one.charCodeAt(0)));
}

/** The other way round. */
function encoded(value) {
  return isPlain(value) ? value : String.fromCharCode(...new TextEncoder().encode(value));
}

/** Whether this runtime has such a value as the text that it is. Workers have any so; elsewhere each byte is a character. */
function isPlain(value) {
  return !/[^\0-\x7f]/.test(value) || (isDecoding ??= decodes());
}

let isDecoding;

function decodes() {
  try {
    return new Headers([["x", "\u0100"]]).get("x") === "\u0100";
  } catch {
    return false;
  }
}

/** The URL of a request, which is decided on; nothing if it has none. */
export function url({ url, method }) {
  if (!SERVER.test(url)) return serialized(url);
  // Only `OPTIONS` may ask about the server as a whole (RFC 9112, 3.2.4 and 3.3).
  return method === "OPTIONS" ? serialized(url.slice(0, -1)) : undefined;
}

/**
 * URLs that the standard writes as they are: the host is a name in lower case whose last label is no number, or an IPv4 address; the port is
 * none that a scheme stands for; no segment of the path begins like a dot segment; and no character is one that is encoded.
 */
const SERIALIZED = (() => {
  const byte = "(?:\\d|[1-9]\\d|1\\d\\d|2[0-4]\\d|25[0-5])";
  const label = "(?!xn--)[a-z0-9_-]+";
  const host = `(?:${byte}(?:\\.${byte}){3}|(?:${label}\\.)*(?!xn--)[a-z][a-z0-9_-]*)`;
  const first = "A-Za-z0-9_~!$&'()*+,;=:@";
  const path = `(?:/(?:[${first}-][${first}.%-]*)?)+`;
  return new RegExp(`^https?://${host}(?::[1-9]\\d{3}|:[1-5]\\d{4})?${path}(?:\\?[!$-&(-;=?-~]*)?$`);
})();

/** What a runtime makes of the target `*`: it puts that behind the host. */
const SERVER = /^[^:]*:\/\/[^/?#\\]*\*$/;

/** Bytes. */
const LARGEST = 16 << 20;

/** Bytes of a body with `GET` or `HEAD`. */
const LONGEST_OF_GET = 1 << 20;

/** What is told the client, by the name of the error. */
const FAILURES = {
  TimeoutError: "timeout",
  IncompleteError: "incomplete",
  LengthError: "length",
  UnsizedError: "unsized",
};

const MOST_KEYS = 128;
