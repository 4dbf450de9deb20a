// What a Worker asks its runtime for beside what every host does. It decides nothing.

/** What is guarded. Whoever waits for it waits here and not in wasm: so a panic, which takes down what waits there, is not felt. */
export class Origin {
  /** `base` has no slash at its end. An answer has to begin within `ms`; then it may take as long as it likes. */
  constructor(base, ms, dataset) {
    Object.assign(this, { base, ms, dataset, failures: {} });
  }

  /** What clients are told when it fails in a way; without a body if `body` must not be sent. */
  tell(kind, status, fields, body) {
    this.failures[kind] = (head) => answer(status, fields, body, head);
  }

  /** Sends a request on, as it is but for its host, and resolves with the answer, which has more header fields. */
  async forward(request, target, fields) {
    const response = await this.fetch(request, target).catch((error) => {
      const kind = error?.name === "TimeoutError" || error?.name === "AbortError" ? "timeout" : "unreachable";
      this.dataset?.writeDataPoint({ indexes: ["origin"], blobs: ["origin", kind], doubles: [1] });
      return this.failures[kind](request.method === "HEAD");
    });
    return fields === "" ? response : extended(response, fields);
  }

  async fetch(request, target) {
    const from = new URL(request.url);
    const onward = new Request(this.base + (target.startsWith("/") ? "" : "/") + target, request);
    onward.headers.set("x-forwarded-host", from.host);
    onward.headers.set("x-forwarded-proto", from.protocol.slice(0, -1));
    const late = new AbortController();
    const timeout = () => late.abort(new DOMException("the origin did not answer in time", "TimeoutError"));
    const timer = setTimeout(timeout, this.ms);
    try {
      return await fetch(onward, { redirect: "manual", signal: late.signal });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The same response with more header fields. What `fetch` gives cannot be changed, so it is a copy; its body is not read. */
function extended(response, fields) {
  const copy = new Response(response.body, response);
  for (const [name, value] of pairs(fields)) copy.headers.set(name, value);
  return copy;
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

/** Alternating names and values, one in each line. */
function pairs(fields) {
  const lines = fields.split("\n");
  const found = [];
  for (let at = 0; at + 1 < lines.length; at += 2) found.push([lines[at], lines[at + 1]]);
  return found;
}
