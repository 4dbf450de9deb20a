// Guards, the same for every runtime; only how the core is loaded differs. Everything is decided in the core. What is done here
// is JavaScript's part: that arguments have their types, and that answers are its objects.

import { Core, Resume } from "./core.js";
import { refusal } from "./from-node.js";

/** Makes the `createGuard` of a runtime; `load` loads the core. `shares` says whether a request may wait for what another one has begun. */
export function creator(load, { shares }) {
  let loaded;
  return async function createGuard(options) {
    expect(isObject(options), "options", options, "an object with a `policy`");
    const { policy, ...settings } = options;
    expect(
      typeof policy === "string" || isObject(policy),
      "policy",
      policy,
      "an object, or its JSON as a text",
    );
    if (settings.redis === undefined) settings.redis = fromEnvironment();
    settings.variables = variables(settings.variables);
    const texts = [typeof policy === "string" ? policy : json("policy", policy), json("options", settings)];
    try {
      await (loaded ??= load());
    } catch (error) {
      // What could not be fetched now may be later.
      loaded = undefined;
      throw error;
    }
    const core = new Core(...texts);
    core.road.shares = shares;
    return new Guard(core);
  };
}

class Guard {
  #core;
  #road;

  constructor(core) {
    this.#core = core;
    this.#road = core.road;
  }

  async check(request, options = {}) {
    const { method, url, headers } = request ?? {};
    const isRequest =
      typeof method === "string" && typeof url === "string" && typeof headers?.get === "function";
    expect(isRequest, "request", request, "a Request, or an object with its `method`, `url` and `headers`");
    const { ip, waitUntil } = checked(options, ["ip", "waitUntil"]);
    expect(ip == null || typeof ip === "string", "ip", ip, "a text");
    expect(url.includes("://"), "url", url, "an absolute URL");
    const finish = behind(waitUntil);
    // Runtimes may give a URL as it was sent. What reads it next reads it as the standard does, so that is decided on.
    const decided = this.#road.url(request);
    const why = refusal(url) ?? (decided === undefined ? "invalid-url" : undefined);
    const ask = (body) => asked(() => this.#core.check(method, decided, headers, ip, finish, body));
    const told = why === undefined ? ((await ask()) ?? (await this.#read(request, ask))) : Core.refused(why);
    return new Decision(this.#road, JSON.parse(told), request, decided, finish);
  }

  /** Asks with the first bytes of a body, which stays to be read. */
  #read(request, ask) {
    const hasBody = typeof request.clone === "function";
    expect(hasBody, "request", request, "a Request with its body: the policy goes by that here");
    // What cannot be read to its end is the client's doing.
    return this.#road.peek(request.clone().body, LONGEST_BODY).then(ask, () => Core.refused("incomplete"));
  }

  async limit(name, key, options = {}) {
    const values = subject(name, key);
    const { cost, waitUntil } = checked(options, ["cost", "waitUntil"]);
    if (cost != null) {
      expect(typeof cost === "number", "cost", cost, "a number");
      expect(Number.isInteger(cost) && cost > 0, "cost", cost, "a whole number from 1", RangeError);
    }
    const finish = behind(waitUntil);
    return limited(JSON.parse(await asked(() => this.#core.limit(name, values, cost, finish))));
  }

  async inspect(name, key) {
    return this.#act("standing", name, subject(name, key));
  }

  async reset(name, key) {
    const { everywhereAfterMs } = await this.#act("reset", name, subject(name, key));
    return { everywhereAfterMs };
  }

  async lock(name, key, options = {}) {
    const values = subject(name, key);
    const { holder, lease, waitUntil } = checked(options, ["holder", "lease", "waitUntil"]);
    expect(holder == null || typeof holder === "string", "holder", holder, "a text");
    duration("lease", lease);
    const finish = behind(waitUntil);
    const lock = await this.#act("acquire", name, values, holder, lease, finish);
    if (!lock.acquired) return lock;
    const still = (what) => async (lease) => {
      duration("lease", lease);
      return (await this.#act(what, name, values, lock.holder, lease, finish)).acquired;
    };
    return { ...lock, extend: still("extend"), release: still("release") };
  }

  async dedup(name, key, options = {}) {
    const values = subject(name, key);
    const { waitUntil } = checked(options, ["waitUntil"]);
    const { acquired, forMs } = await this.#act("mark", name, values, undefined, undefined, behind(waitUntil));
    return { first: acquired, forMs };
  }

  async forget(name, key) {
    await this.#act("forget", name, subject(name, key));
  }

  async revoke(which) {
    const names = ["token", "jti", "subject"];
    expect(isObject(which), "revoke", which, `an object with one of ${names.join(", ")}`);
    const { issuer, ...rest } = which;
    const [[what, value], ...more] = [...Object.entries(rest).filter(([, value]) => value !== undefined), []];
    const isOne = names.includes(what) && typeof value === "string" && more.length === 1;
    expect(isOne, "revoke", which, `one of ${names.join(", ")}, which is a text`);
    const mayHave = issuer === undefined || (typeof issuer === "string" && what !== "token");
    expect(mayHave, "issuer", issuer, "a text beside `jti` or `subject`, or nothing");
    return this.#act(what, value, issuer === undefined ? [] : [issuer]);
  }

  async breaker(name) {
    expect(typeof name === "string", "name", name, "a text");
    const told = async (what, time) => ({ ...(await this.#act(what, name, [], undefined, time)), open, close });
    const open = async (time) => {
      expect(typeof time === "string", "for", time, 'a duration such as "30s"');
      return told("open", time);
    };
    const close = () => told("close");
    return told("inspect");
  }

  /** Has something done that the policy names; rejects unless it is known to be. */
  async #act(what, name, values, holder, time, finish = behind()) {
    // What has been forgotten may have been done.
    const told = JSON.parse((await this.#core.act(what, name, values, holder, time, finish)) ?? FORGOTTEN);
    if (told.failure === undefined) return told;
    const done = told.asked ? "it is not known whether this was done" : "this was not done";
    const error = new Error(`${done}: ${told.failure}`);
    throw Object.assign(error, { name: "StoreError", mayBeDone: told.asked });
  }
}

class Decision {
  #road;
  #onward;
  #due;
  #request;
  #finish;

  constructor(road, told, request, url, finish) {
    const { allowed, route, limits, guards, degraded, headers, refusal, onward, due } = told;
    this.allowed = allowed;
    this.url = url ?? null;
    this.route = route;
    this.limits = limits.map(limited);
    this.guards = guards;
    this.degraded = degraded;
    this.headers = new Headers(road.encoded(headers));
    [this.#road, this.#onward, this.#due, this.#request, this.#finish] = [road, onward, due, request, finish];
    if (refusal) this.response = respond(road, refusal, request);
  }

  onward(headers) {
    const copy = new Headers(headers);
    for (const [name, value] of this.#onward) value === null ? copy.delete(name) : copy.set(name, value);
    // With this field, the `fetch` of Workers sends a `GET` without a body, which is not the
    // request that was decided on.
    const { method, body } = this.#request;
    if (method !== "GET" || (body && copy.get("content-length") !== "0")) copy.delete("upgrade");
    return copy;
  }

  apply(response) {
    expect(isResponse(response), "response", response, "a Response");
    return this.#dressed(response, response.body);
  }

  async complete(response) {
    const isUnread = isResponse(response) && !response.body?.locked;
    expect(isUnread, "response", response, "a Response whose body nobody reads");
    const { status, webSocket } = response;
    // Only runtimes make these. Nobody sees the end of a WebSocket: what it holds ends by its time.
    const isUpgrade = status === 101 && webSocket !== null;
    if (!isUpgrade && !this.#road.isFinal(response)) {
      abandon(response);
      return this.complete(respond(this.#road, JSON.parse(Resume.unreachable()), this.#request));
    }
    // All that may fail is done before anything is told.
    const [body, begin] = this.#due?.lasts && !isUpgrade ? this.#road.watch(response) : [response.body];
    // Deno goes by the object itself.
    const page = isUpgrade && !webSocket ? response : this.#dressed(response, body);
    const due = this.#take();
    if (!due) return page;
    const left = await Resume.answered(due.ticket, status, due.confirms, this.#finish);
    if (typeof left === "string") {
      abandon(response);
      return respond(this.#road, JSON.parse(left), this.#request);
    }
    if (begin) this.#finish(begin(due.ticket, left, this.#request.signal, this.#finish));
    return page;
  }

  /** A copy with our fields and this body. What `fetch` gives cannot be changed. */
  #dressed(response, body) {
    const copy = this.#road.copy(response, body);
    this.headers.forEach((value, name) => copy.headers.set(name, value));
    return copy;
  }

  abandon() {
    const due = this.#take();
    if (due) Resume.abandoned(due.ticket, this.#finish);
  }

  /** What is due is due once. */
  #take() {
    const due = this.#due;
    this.#due = null;
    return due;
  }
}

/**
 * Says that nobody wants the body. Nobody waits for that: of one that was cloned, the other half
 * may be read for long.
 */
function abandon({ body }) {
  body?.cancel().catch(() => {});
}

/** Asks the core once more as long as it has forgotten the question: a thread that stood still for long finds it so. */
async function asked(ask) {
  let told = null;
  while (told === null) told = await ask();
  return told;
}

/** Whether a copy of it can be made; it may be of another realm. */
function isResponse(value) {
  const { status, headers, body } = value ?? {};
  return typeof status === "number" && typeof headers?.get === "function" && body !== undefined;
}

/** A response of ours. Bodies that are no text come as numbers. */
function respond(road, { status, headers, body }, { method }) {
  const bytes = typeof body === "string" ? body : new Uint8Array(body);
  // With statuses such as 204 an empty body is one too many.
  return new Response(method === "HEAD" || body.length === 0 ? null : bytes, { status, headers: road.encoded(headers) });
}

/** Has the platform wait for what is done behind an answer, if it can. It is done in any case, as long as the instance lives. */
function behind(waitUntil) {
  const warn = (what) => console.warn(JSON.stringify({ message: `${what}: the store may not be told what is left to tell it` }));
  return (promise) => {
    const done = promise.catch((error) => warn(`what is done behind an answer failed (${error})`));
    try {
      waitUntil?.(done);
    } catch (error) {
      warn(`waitUntil failed (${error?.message})`);
    }
  };
}

/** The values of a key that a limit or a guard has. */
function subject(name, key) {
  expect(typeof name === "string", "name", name, "a text");
  const values = Array.isArray(key) ? [...key] : [key];
  for (const value of values)
    expect(typeof value === "string", "key", value, "a text, or an array of texts");
  return values;
}

function duration(place, time) {
  expect(time == null || typeof time === "string", place, time, 'a duration such as "30s"');
}

/** JSON has no infinity. */
function limited(limit) {
  limit.retryAfterMs ??= Infinity;
  return limit;
}

/** The options of a call; one that is misspelt must not look like one that is left out. */
function checked(options, names) {
  expect(isObject(options), "options", options, `an object with ${names.join(", ")}`);
  const stranger = Object.keys(options).find((name) => !names.includes(name));
  if (stranger !== undefined)
    throw new TypeError(`options: found \`${stranger}\`, expected ${names.join(", ")}`);
  const { waitUntil } = options;
  expect(waitUntil == null || typeof waitUntil === "function", "waitUntil", waitUntil, "a function");
  return options;
}

/** The database that Upstash's integrations name, where there are variables and we may read them. */
function fromEnvironment() {
  const names = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];
  let found = [];
  try {
    found = names.map((name) => globalThis.process?.env?.[name]);
  } catch {
    // Deno, without `--allow-env`.
  }
  const [url, token] = found;
  if (!url !== !token) {
    const [there, missing] = url ? names : names.toReversed();
    throw new Error(
      `${missing}: found nothing, expected a text because ${there} is set; \`redis: null\` is for memory`,
    );
  }
  return url && token ? { url, token } : undefined;
}

/** Texts by their names. They may be secrets, so none is shown. */
function variables(given = {}) {
  expect(isObject(given), "variables", given, "an object with texts");
  const found = Object.entries(given).filter(([, value]) => value !== undefined);
  for (const [name, value] of found) {
    const isText = typeof value === "string";
    expect(isText, `variables.${name}`, isText || Object(value), "a text (what is found is not shown)");
  }
  return Object.fromEntries(found);
}

/** JSON, of what has such a form: `JSON.stringify` alone leaves functions out, and makes null of NaN. */
function json(place, value) {
  return JSON.stringify(value, (name, part) => {
    const none =
      typeof part === "number"
        ? !Number.isFinite(part)
        : ["bigint", "function", "symbol"].includes(typeof part);
    expect(!none, name || place, part, "a value that JSON has");
    return part;
  });
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Texts are not shown: they may be about a person, and errors end up in logs. */
function expect(holds, place, found, expected, Kind = TypeError) {
  if (holds) return;
  throw new Kind(`${place}: found ${inWords(found)}, expected ${expected}`);
}

function inWords(value) {
  if (value === undefined) return "nothing";
  if (value === null || typeof value === "number" || typeof value === "boolean") return `\`${value}\``;
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

const FORGOTTEN = JSON.stringify({ failure: "nothing is known of the answer any more", asked: true });

/** Bytes. What is behind them tells nobody apart. */
const LONGEST_BODY = 64 * 1024;
