// What a Worker asks its runtime for beside what every host does. It decides nothing.

/** Sends a request on to `url`. Its answer has to begin within `ms`; then it may take as long as it likes. */
export async function forward(request, url, ms) {
  const from = new URL(request.url);
  const onward = new Request(url, request);
  onward.headers.set("x-forwarded-host", from.host);
  onward.headers.set("x-forwarded-proto", from.protocol.slice(0, -1));
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new DOMException("the origin did not answer in time", "TimeoutError")), ms);
  try {
    return await fetch(onward, { redirect: "manual", signal: late.signal });
  } finally {
    clearTimeout(timer);
  }
}

/** The same response with more header fields. What `fetch` gives cannot be changed, so it is a copy; its body is not read. */
export function extended(response, fields) {
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
  dataset.writeDataPoint({ indexes: [index], blobs: blobs.split("\n"), doubles });
}

/** Alternating names and values, one in each line. */
function pairs(fields) {
  const lines = fields.split("\n");
  const found = [];
  for (let at = 0; at + 1 < lines.length; at += 2) found.push([lines[at], lines[at + 1]]);
  return found;
}
