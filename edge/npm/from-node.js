// Requests of Node's own `http` and `http2`, and of what is built on them, such as Express.

/** What `check` reads of an `IncomingMessage`. */
export function fromNode(req) {
  const { method, rawHeaders, socket } = req ?? {};
  // What is mounted below a path, as Express has it, sees only the rest of it in `url`.
  const target = req?.originalUrl ?? req?.url;
  if (typeof method !== "string" || typeof target !== "string" || !Array.isArray(rawHeaders))
    throw new TypeError("req: expected an IncomingMessage of Node's");
  const [headers, areValid] = fields(rawHeaders);
  const scheme = socket?.encrypted ? "https" : "http";
  const hosts = [req.authority, headers.get("host")].filter(Boolean);
  const url = areValid ? read(scheme, method, hosts, target) : refused("invalid-header");
  return { method, url, headers };
}

/**
 * Why a request with this URL is refused, if it is one that `fromNode` gives in the place of the
 * request's.
 */
export function refusal(url) {
  return url.startsWith(REFUSED) ? url.slice(REFUSED.length, -1) : undefined;
}

/**
 * A URL whose path is that of the target, whatever that looks like: one that begins with two
 * slashes names no host. Where others may read the target in another way than the URL standard
 * does, it is a URL that is refused, so that whatever is made of it is refused, too.
 */
function read(scheme, method, hosts, target) {
  const absolute = ABSOLUTE.exec(target);
  const named = [...hosts, ...(absolute ? [absolute[1]] : [])];
  // Some routers go by the one and some by the other.
  if (named.some((host) => host.toLowerCase() !== hosts[0]?.toLowerCase())) return refused("ambiguous-path");
  // Only `OPTIONS` may ask about the server as a whole (RFC 9112, 3.2.4).
  const isServer = absolute?.[2] === "" || (target === "*" && method === "OPTIONS");
  const path = isServer ? "/" : (absolute?.[2] ?? target);
  if (!path.startsWith("/") || TWO_READINGS.test(path)) return refused("ambiguous-path");
  const origin = hosts.length === 0 ? `${scheme}://host.invalid` : originOf(scheme, hosts[0]);
  return origin ? new URL(`${origin}${path}`).href : refused("invalid-url");
}

/** A URL that no request over HTTP has, and that nobody can fetch. */
function refused(why) {
  return `${REFUSED}${why}/`;
}

/**
 * The origin of a host; nothing if it is none, or one that the URL standard writes as another name
 * than was sent.
 */
function originOf(scheme, host) {
  const [, name] = HOST.exec(host) ?? [];
  try {
    const { origin, hostname } = new URL(`${scheme}://${host}`);
    return hostname === name?.toLowerCase() || name?.startsWith("[") ? origin : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Each line of the head as it was sent, and whether all of them are fields. Of some that were sent
 * twice Node shows one, and they have to look as if they were.
 */
function fields(raw) {
  const lines = new Map();
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at].toLowerCase();
    // Those of HTTP/2 that begin with a colon are no fields.
    if (!name.startsWith(":")) lines.set(name, [...(lines.get(name) ?? []), raw[at + 1]]);
  }
  const headers = new Headers();
  let areValid = true;
  for (const [name, values] of lines) {
    // HTTP/2 sends cookies one by one.
    const value = values.join(name === "cookie" ? "; " : ", ");
    try {
      headers.set(name, value);
    } catch {
      areValid = false;
    }
    // Node lets them pass with `insecureHTTPParser`, and so do the header fields of some runtimes.
    areValid &&= !/[\0\r\n]/.test(value);
  }
  return [headers, areValid];
}

/** What URLs begin with that are refused: no request over HTTP has this scheme. */
const REFUSED = "refused://";
/** Scheme, authority and the rest. */
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:\/\/([^/?#\\]*)(.*)$/is;
/** A name and a port. */
const HOST = /^(\[[^\]\s]*\]|[^[\]:/?#\\@\s]+)(?::\d*)?$/;
/** A fragment, what is no text of a URL, and before the query a backslash or a dot segment. */
const TWO_READINGS = /[\0- \x7f#]|^[^?]*(?:\\|\/(?:\.|%2e){1,2}(?:[/?]|$))/i;
