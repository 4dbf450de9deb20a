// What the runtime is asked for. It decides nothing.

/**
 * Posts a pipeline to the store.
 * @returns {Promise<[number, string]>} status and text; rejects with a `TimeoutError` when `ms` are over
 */
export async function post(url, authorization, body, ms) {
  const response = await fetch(url, {
    method: "POST",
    headers: { authorization, "content-type": "application/json" },
    body,
    // A store that sends us elsewhere does not get our token sent there.
    redirect: "manual",
    signal: AbortSignal.timeout(ms),
  });
  return [response.status, await text(response)];
}

/** Writes a line of JSON to the log. */
export function log(level, line) {
  console[level](line);
}

/** The body, unless it is larger than any answer to what we asked. */
async function text(response) {
  const length = response.headers.get("content-length");
  if (length !== null && !response.headers.has("content-encoding")) {
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

/** Bytes. */
const LARGEST = 16 << 20;
