// Requests of Node's own `http` and `http2`, and of what is built on them, such as Express.

/** Those whose path others may read in another way than the URL standard does. */
const ambiguous = new WeakSet();

/** What `check` reads of an `IncomingMessage`. */
export function fromNode(req) {
  const { method, rawHeaders, socket } = req ?? {};
  // What is mounted below a path, as Express has it, sees only the rest of it in `url`.
  const target = req?.originalUrl ?? req?.url;
  if (typeof method !== "string" || typeof target !== "string" || !Array.isArray(rawHeaders))
    throw new TypeError("req: expected an IncomingMessage of Node's");
  const headers = fields(rawHeaders);
  const scheme = socket?.encrypted ? "https" : "http";
  const host = req.authority || headers.get("host");
  const request = { method, url: absolute(scheme, host, target), headers };
  if (TWO_READINGS.test(target) || namesAnotherHost(target, host)) ambiguous.add(request);
  return request;
}

/** Whether the path of a request has two readings. */
export function isAmbiguous(request) {
  return ambiguous.has(request);
}

/**
 * Whether a target in absolute form has another host than the request, or none that a slash ends: some routers go by the one and some by the
 * other, and some take what follows the next slash for the path.
 */
function namesAnotherHost(target, host) {
  const [, authority, path] = ABSOLUTE.exec(target) ?? [];
  if (authority === undefined) return false;
  return authority.toLowerCase() !== String(host).toLowerCase() || (path !== "" && !path.startsWith("/"));
}

/** A URL whose path is that of the target, whatever that looks like: one that begins with two slashes names no host. */
function absolute(scheme, host, target) {
  const [, authority, path] = ABSOLUTE.exec(target) ?? [, host, target];
  const origin = originOf(scheme, authority) ?? originOf(scheme, host) ?? `${scheme}://host.invalid`;
  // `*` asks about the server as a whole.
  const rest = path === "*" ? "/" : /^[/\\]/.test(path) ? path : `/${path}`;
  return new URL(`${origin}${rest.split("#", 1)[0]}`).href;
}

/** The origin of a host; nothing if it is none, or more than that. */
function originOf(scheme, host) {
  if (typeof host !== "string" || !/^[^/?#\\@\s]+$/.test(host)) return undefined;
  try {
    return new URL(`${scheme}://${host}`).origin;
  } catch {
    return undefined;
  }
}

/** Each line of the head as it was sent. Of some that were sent twice Node shows one, and they have to look as if they were. */
function fields(raw) {
  const lines = new Map();
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at].toLowerCase();
    // Those of HTTP/2 that begin with a colon are no fields.
    if (!name.startsWith(":")) lines.set(name, [...(lines.get(name) ?? []), raw[at + 1]]);
  }
  const headers = new Headers();
  // HTTP/2 sends cookies one by one.
  for (const [name, values] of lines) headers.set(name, values.join(name === "cookie" ? "; " : ", "));
  return headers;
}

/** Scheme, authority and the rest. */
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:\/\/([^/?#\\]*)(.*)$/is;
/** A backslash, a dot segment or a fragment in the path. */
const TWO_READINGS = /^[^?]*?(?:[\\#]|\/(?:\.|%2e){1,2}(?:[/?#]|$))/i;
