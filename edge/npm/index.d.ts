/**
 * Rate limits and other guards for edge functions and servers, shared in Redis.
 *
 * ```ts
 * import { createGuard } from "tollgate";
 *
 * const guard = await createGuard({
 *   policy: {
 *     routes: [{
 *       name: "api",
 *       match: { path: "/api/*" },
 *       rate_limits: [{ name: "api-client", algorithm: "gcra", quota: 100, window: "1m", burst: 20, key: ["client_ip"] }],
 *     }],
 *   },
 *   redis: { url: "https://example.upstash.io", token: "…" },
 * });
 *
 * const decision = await guard.check(request, { ip, waitUntil });
 * if (!decision.allowed) return decision.response;
 * return decision.complete(await answer(request));
 * ```
 *
 * @module
 */

/**
 * Makes a guard. Make one when the module is loaded, and use it for every request: it remembers denials, and how the store is.
 *
 * @throws {TypeError} An option is of another type than it has to be.
 * @throws {Error} The policy or an option is wrong. The message has a line for everything that is: where, what was found, and
 *   what was expected.
 */
export function createGuard(options: GuardOptions): Promise<Guard>;

/**
 * What {@link Guard.check} reads of a request of Node's own `http` or `http2`, or of what is built on them, such as Express.
 *
 * ```ts
 * const decision = await guard.check(fromNode(req), { ip: req.socket.remoteAddress });
 * ```
 *
 * The `url` always has the path of the target: `//auth/login` names no host. Without `Host`, that
 * is `host.invalid`. Fields that were sent twice have both values, where `req.headers` shows one.
 *
 * Some requests have instead a `url` with the scheme `refused:`, which no request over HTTP has and
 * nobody can fetch. `check` refuses them with 400, and whatever has that `url`: copies, and a
 * `Request` that is made of it.
 *
 * - `refused://ambiguous-path/`, code `AMBIGUOUS_PATH`: URLs and routers read the target in
 *   different ways. In its path it has a backslash or a dot segment; it has a `#`, a space or a
 *   control character; it does not begin with a slash, unless it is `*` with `OPTIONS` or has the
 *   host that `Host` has; or `:authority` is not `Host`.
 * - `refused://invalid-url/`, code `INVALID_URL`: `Host` is no host with or without a port, or one
 *   that the URL standard writes as another, such as `127.1` or `%61.example`.
 * - `refused://invalid-header/`, code `INVALID_HEADER`: a header field has a character that none
 *   may have. Node lets it pass with `insecureHTTPParser`.
 *
 * It has no body. Where the policy goes by bodies, make a `Request` of it:
 * `new Request(url, { method, headers, body: Readable.toWeb(req), duplex: "half" })`, without a body for `GET` and `HEAD`.
 *
 * @throws {TypeError} It is no such request.
 */
export function fromNode(req: NodeRequest): RequestLike & { readonly headers: Headers };

/** What is read of Node's `IncomingMessage`. */
export interface NodeRequest {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly rawHeaders: readonly string[];
}

/** What {@link createGuard} is told. */
export interface GuardOptions {
  /** The policy, or its JSON as a text. */
  policy: Policy | string;
  /**
   * The database that all instances count in: Upstash's, or a Redis behind Tollgate's gateway.
   *
   * Where nothing is said, it is what the variables `UPSTASH_REDIS_REST_URL` and `UPSTASH_REDIS_REST_TOKEN` of `process.env` say.
   * Without those, or with `null`, this instance counts for itself in its memory, and says so once in the log.
   */
  redis?: RedisOptions | null;
  /**
   * What the policy names secrets by: `{"env": "JWT_SECRET"}` there is `variables.JWT_SECRET` here. `process.env` will do.
   *
   * @default {}
   */
  variables?: Readonly<Record<string, string | undefined>>;
  /** How long a request may wait for the store, at most `"10s"`. @default "500ms" */
  timeout?: Duration;
  /** What keys in the store begin with: 1 to 64 of `A-Z a-z 0-9 . _ -`. @default "tg" */
  keyPrefix?: string;
  /**
   * How many instances share the limits, 1 to 100,000: while the store fails, each counts against its share of a limit whose
   * `on_store_error` is `"local"`. @default 1
   */
  replicas?: number;
  /** How many refusals this instance remembers, so that they cost no call; 0 for none. @default 4096 */
  denialCache?: number;
  /** For how long a refusal is believed at most before the store is asked again. @default "1s" */
  denialCacheMaxAge?: Duration;
  /** Whose clock counts: `"host"`, this instance's, is for stores whose scripts may not ask for the time. @default "store" */
  clock?: "store" | "host";
}

/** A database that speaks Upstash's REST dialect. */
export interface RedisOptions {
  /** Such as `https://example.upstash.io`. */
  url: string;
  /** Its bearer token. Nothing that ends up in a browser may hold it. */
  token: string;
}

/** Decides. */
export interface Guard {
  /**
   * Decides about a request, as the policy's routes say. That is one call to the store at most, and one more where the route has a
   * lock, a `dedup` or an `idempotency`.
   *
   * It is never rejected because of the store: if that is down, slow or refuses, or if 10,000 wait for it already, each guard does what its
   * `on_store_error` says.
   *
   * The URL is read as the URL standard has it, and that is what {@link Decided.url} says. A
   * request whose URL is none is refused with 400 (`INVALID_URL`), and so is one whose body is
   * needed and breaks off (`REQUEST_INCOMPLETE`).
   *
   * @throws {TypeError} An argument is of another type than it has to be, `ip` is no IP address, or
   *   a body that is needed has been read.
   */
  check(request: RequestLike, options?: CheckOptions): Promise<Decision>;

  /**
   * Decides about one limit of the policy, wherever in a program that is. It counts where requests with these values count.
   *
   * ```ts
   * const { allowed, retryAfterMs } = await guard.limit("api-key", "k-123", { cost: 2 });
   * ```
   *
   * It is never rejected because of the store, just like {@link Guard.check}.
   *
   * @param name The limit's name in the policy.
   * @param key Whom it is about: a value for each part of the limit's `key` that is no `const:…`, in their order. For `client_ip` that
   *   is an IP address, for `path` a path in normal form (decoded, without query). Cookies and parameters are decoded, numbers in plain
   *   decimal (`String(7)`); the case of methods, and of what `lower:` stands in front of, makes no difference.
   *
   * @throws {TypeError} An argument is of another type than it has to be.
   * @throws {RangeError} There is no such limit, its key takes other values, or the cost is not a whole number from 1 to 1,000,000,000.
   *   The message says what there is.
   */
  limit(name: string, key: string | readonly string[], options?: LimitOptions): Promise<LimitDecision>;

  /** Says how the counter of a limit stands, and charges nothing. Throws as {@link Guard.lock} does. */
  inspect(name: string, key: string | readonly string[]): Promise<{ limit: number; remaining: number; resetAfterMs: number }>;

  /**
   * Has the counter of a limit start afresh.
   *
   * @returns After how many milliseconds that holds on every instance with this policy: until then others may go on refusing whom they
   *   have refused. Throws as {@link Guard.lock} does.
   */
  reset(name: string, key: string | readonly string[]): Promise<{ everywhereAfterMs: number }>;

  /**
   * Takes a lock of the policy, the same that requests with these values take. It ends by its lease if nobody releases it.
   *
   * ```ts
   * const lock = await guard.lock("refresh", "user-7", { lease: "1m" });
   * if (!lock.acquired) return;
   * try { await refresh({ fence: lock.fence }); } finally { await lock.release(); }
   * ```
   *
   * @param key As for {@link Guard.limit}.
   *
   * @throws {TypeError} An argument is of another type than it has to be.
   * @throws {RangeError} There is no such lock, its key takes other values, or an option cannot be read.
   * @throws {StoreError} The store could not be asked, or did not answer. Unlike a request, this follows no `on_store_error`.
   */
  lock(name: string, key: string | readonly string[], options?: LockOptions): Promise<Lock | { acquired: false; forMs: number }>;

  /**
   * Notes something that a `dedup` of the policy takes for the same, as a request with these values does.
   *
   * @returns Whether it is the first, and for how many milliseconds another one is not. Throws as {@link Guard.lock} does.
   */
  dedup(
    name: string,
    key: string | readonly string[],
    options?: { waitUntil?: CheckOptions["waitUntil"] },
  ): Promise<{ first: boolean; forMs: number }>;

  /** Has the next of what a `dedup` of the policy takes for the same be the first. Throws as {@link Guard.lock} does. */
  forget(name: string, key: string | readonly string[]): Promise<void>;

  /**
   * Revokes a token, the one of this `jti`, or all that a subject was issued until now. The signature of `token` is not verified: it is to be kept
   * out, whoever made it. Other instances refuse it at once, or when their `cache` of the policy ends. Without `issuer` the issuer of the
   * policy is meant.
   *
   * @returns For how many milliseconds that is kept, and after how many it holds on every instance with this policy. Of a subject also
   *   `newTokensFrom`: the first `iat`, in Unix seconds, with which a new token is accepted; until then a login is refused. Throws as {@link Guard.lock} does, a `RangeError` also where no route has
   *   `revocation`, where a subject is to be revoked and `jwt` has no `max_lifetime`, and where the policy never accepts such a token.
   */
  revoke(
    which:
      | { token: string; jti?: never; subject?: never; issuer?: never }
      | { jti: string; issuer?: string; token?: never; subject?: never }
      | { subject: string; issuer?: string; token?: never; jti?: never },
  ): Promise<{ forMs: number; everywhereAfterMs: number; newTokensFrom?: number }>;

  /** Says what a circuit breaker of the policy does; it can be set by hand. Throws as {@link Guard.lock} does. */
  breaker(name: string): Promise<Breaker>;
}

/** What {@link Guard.lock} is told beside whom it is about. */
export interface LockOptions {
  /** Who takes it: 32 hexadecimal digits. Who names himself may ask again if an answer is lost. @default drawn at random */
  holder?: string;
  /** How long it is held at most, 1 ms to 366 days. @default what the policy says */
  lease?: Duration;
  /** As for {@link Guard.check}; it is what was perhaps taken in vain that is given back behind an error. */
  waitUntil?: CheckOptions["waitUntil"];
}

/** A lock that is held. */
export interface Lock {
  readonly acquired: true;
  /** 32 hexadecimal digits. */
  readonly holder: string;
  /** Larger than that of every holder before. Whatever the lock guards should refuse a smaller one than it has seen. */
  readonly fence: number;
  /** For how many milliseconds it is held, at least. */
  readonly forMs: number;
  /** Makes it end no earlier than that from now. @returns Whether it was held still. */
  extend(lease?: Duration): Promise<boolean>;
  /** Ends it. @returns Whether it was held still. */
  release(): Promise<boolean>;
}

/** What a circuit breaker does with calls. */
export interface Breaker {
  readonly state: "closed" | "open" | "half_open";
  /** Which time it has been open; 0 while it is closed. */
  readonly generation: number;
  /** Milliseconds until it is half-open, or until its probes are given up. */
  readonly forMs: number;
  /** How many probes may pass yet, while it is half-open. */
  readonly freeProbes: number;
  /** Of what was set by hand: milliseconds after which it holds on every instance with this policy. */
  readonly everywhereAfterMs?: number;
  /** Rejects calls for this time. @returns What it does then. */
  open(time: Duration): Promise<Breaker>;
  /** Lets calls through, and forgets what was counted. @returns What it does then. */
  close(): Promise<Breaker>;
}

/** Why something was not done, or is not known to have been. */
export interface StoreError extends Error {
  readonly name: "StoreError";
  /** Whether it may have been done all the same. */
  readonly mayBeDone: boolean;
}

/**
 * What is read of a request: its head. A `Request` of the Fetch API is one, and has to be where the policy goes by the body: then a
 * clone of it is read.
 */
export interface RequestLike {
  readonly method: string;
  /** Absolute. Of Node's requests {@link fromNode} makes one. */
  readonly url: string;
  readonly headers: { get(name: string): string | null };
}

/** What {@link Guard.check} is told beside the request. */
export interface CheckOptions {
  /**
   * The client's address as the platform knows it; for the key part `client_ip`, where the policy takes it from the connection.
   *
   * | platform | address |
   * | --- | --- |
   * | Vercel | `request.headers.get("x-real-ip")`, or `ipAddress(request)` of `@vercel/functions` |
   * | Cloudflare Workers | `request.headers.get("cf-connecting-ip")` |
   * | Node | `socket.remoteAddress` |
   * | Deno | `info.remoteAddr.hostname` |
   * | Bun | `server.requestIP(request).address` |
   *
   * Without it the address is not known, and all such requests are counted as one client's.
   */
  ip?: string | null;
  /**
   * The platform's function that keeps an instance alive for a promise: `(promise) => context.waitUntil(promise)`. What a refused
   * request was charged by other limits is given back behind the answer, and guards are told how it went. Without it that is done as
   * well, if the instance lives that long.
   */
  waitUntil?: ((promise: Promise<unknown>) => void) | null;
}

/** What {@link Guard.limit} is told beside whom it is about. */
export interface LimitOptions {
  /** What this consumes, 1 to 1,000,000,000; where nothing is said, what the policy says that a request costs. */
  cost?: number;
  /** As for {@link Guard.check}. */
  waitUntil?: CheckOptions["waitUntil"];
}

/** What becomes of a request. */
export type Decision = Admission | Refusal;

/** The request may go on. */
export interface Admission extends Decided {
  readonly allowed: true;
  readonly response?: undefined;
  /**
   * A copy of the header fields of a request as the upstream is to see them: with those that guards
   * tell it (`X-Tollgate-Fence` of a lock, `X-Tollgate-Duplicate`), whatever the client has sent.
   * Only a `GET` without a body keeps `Upgrade`.
   */
  onward(headers: Headers): Headers;
  /**
   * Tells the guards of the answer, and gives the response for the client: as {@link Decided.apply} does, or another one in its place,
   * where a logout did not reach the store. Locks are released when its body has ended, or when nobody wants the rest.
   *
   * Guards that go by answers need it: `circuit_breaker`, `lock`, `revokes`, `idempotency`, and limits with `count`. If there is no answer,
   * complete with the one that stands in for it. Without it, what is held ends by its time.
   *
   * An answer with a status outside of 200 to 599 is a failure of the upstream: breakers and limits
   * with `count` are told 502, and the client gets that (`ORIGIN_UNREACHABLE`). A response to an
   * upgrade (101) passes. Nobody is told the end of a WebSocket: what it holds ends by its time.
   * Deno's has none of our header fields, because Deno takes no copy of it.
   *
   * @throws {TypeError} It is no response, or somebody reads its body or has read it. Then nothing
   *   has been told: it may be called again.
   */
  complete(response: Response): Promise<Response>;
  /**
   * Instead of {@link Admission.complete}, where there is no answer because of the client, such as one that broke off its upload. That is no
   * failure of the upstream: breakers and limits with `count` (unless it counts 2xx) are told of none, and locks are released.
   */
  abandon(): void;
}

/** The request is refused. */
export interface Refusal extends Decided {
  readonly allowed: false;
  /** The answer to it, ready to be sent: 429, 401, 409 …, or 503 where the store cannot be asked and the policy says `"deny"`. */
  readonly response: Response;
}

/** What every decision says. */
export interface Decided {
  /**
   * The URL that was decided on, as the URL standard writes it; null if the request's is none, or
   * one that `fromNode` has refused. Fetch this one, and route by it: in Workers, `request.url` is
   * as the client sent it, and `/open/../admin` is not what a router takes it for.
   */
  readonly url: string | null;
  /** The name of the route that the request took; null if it matches none. */
  readonly route: string | null;
  /** What each limit of the route said; of a refusal that was remembered, only the one that refused. */
  readonly limits: readonly LimitDecision[];
  /** What each other guard of the route said, as far as it was asked. */
  readonly guards: readonly GuardDecision[];
  /** Whether a limit or another guard was decided without the store. */
  readonly degraded: boolean;
  /** The header fields for any answer to this request: `RateLimit`, `RateLimit-Policy` and others, as the policy says. */
  readonly headers: Headers;
  /**
   * A copy of a response with these header fields; its body is not read.
   *
   * @throws {TypeError} It is no response, or its body has been read.
   * @throws {RangeError} Its status is one that the runtime makes no response with: none of 200 to
   *   599.
   */
  apply(response: Response): Response;
}

/** What one guard said that is no limit. */
export interface GuardDecision {
  readonly kind: "token" | "revocation" | "circuit_breaker" | "idempotency" | "dedup" | "lock" | "revokes";
  /** Its name in the policy: its route's, unless that says otherwise. */
  readonly name: string;
  /** Whether it lets the request pass. */
  readonly allowed: boolean;
  /** As of a limit. */
  readonly ruling: LimitDecision["ruling"];
  /** As of a limit. */
  readonly source: LimitDecision["source"];
  /** Whether it was decided without the store although there is one. */
  readonly degraded: boolean;
}

/** What one limit said. */
export interface LimitDecision {
  /** The limit's name in the policy. */
  readonly name: string;
  /** Whether it lets the request pass. */
  readonly allowed: boolean;
  /**
   * - `"admitted"`: there was room.
   * - `"refused"`: there was none.
   * - `"shadow_refused"`: there was none, but the limit is in shadow mode.
   * - `"unavailable"`: the store cannot be asked, and the policy refuses then.
   */
  readonly ruling: "admitted" | "refused" | "shadow_refused" | "unavailable";
  /** How much may pass at once: the quota, or the burst of `gcra`. */
  readonly limit: number;
  /** How much could pass now; null if no counter was asked. */
  readonly remaining: number | null;
  /** Milliseconds until `remaining` grows, 0 if all of the quota is there; null if no counter was asked. */
  readonly resetAfterMs: number | null;
  /** Milliseconds until this would be admitted: 0 if it was, `Infinity` if it costs more than the quota ever holds. */
  readonly retryAfterMs: number;
  /**
   * Who decided.
   *
   * - `"store"`: the store.
   * - `"memory"`: this instance's memory, where there is no store.
   * - `"denials"`: this instance, which remembers a refusal.
   * - `"local"`, `"allow"`, `"deny"`: the store could not be asked; this is what the limit's `on_store_error` says.
   */
  readonly source: "store" | "memory" | "denials" | FailureMode;
  /** Whether it was decided without the store although there is one. */
  readonly degraded: boolean;
}

/**
 * A policy: which requests are limited, by whom and how much. It is the same file that Tollgate's filter and Worker run.
 *
 * What an editor makes of an imported JSON file is less exact than this: `import policy from "./policy.json"`, then
 * `policy as Policy`.
 */
export interface Policy {
  /** Where editors find the schema; ignored. */
  $schema?: string;
  /** Where a client's address comes from. */
  client_ip?: {
    /** `"connection"` (what `ip` says), or a header field with addresses, such as `"x-forwarded-for"`. @default "connection" */
    from?: string;
    /** How many trusted proxies appended to that field: the client is that many entries from the right. @default 1 */
    trusted_hops?: number;
    /** How many bits of an IPv6 address tell clients apart, 1 to 128. @default 64 */
    ipv6_prefix?: number;
  };
  /** Whether paths are compared with regard to (ASCII) case. @default "sensitive" */
  path_case?: "sensitive" | "insensitive";
  /** What `%2F` in a path is: a slash for some servers and a part of a name for others, or kept as a part of a name by all. @default "ambiguous" */
  escaped_slashes?: "ambiguous" | "kept";
  /** Which header fields answers carry. */
  headers?: {
    /** `RateLimit-Policy` and `RateLimit`, of every limit. @default "always" */
    ietf?: Sent;
    /** `X-RateLimit-Limit`, `-Remaining` and `-Reset`, of the tightest limit. @default "refusals" */
    x_ratelimit?: Sent;
  };
  /** Decide and log everything, enforce nothing. @default false */
  shadow?: boolean;
  /** JSON Web Tokens: where a request's token is, who may have signed it, and what it must claim. */
  jwt?: Jwt;
  /** Tried in order; the first that matches is a request's route. At most 1,000. */
  routes?: readonly Route[];
  /** The route of requests that match no other; without it they pass. */
  default?: Guards;
}

/** A route: which requests it is for, and what guards them. */
export interface Route extends Guards {
  /** Unique; 1 to 64 of `A-Z a-z 0-9 . _ -`. */
  name: string;
  /** Conditions that all have to hold. */
  match?: {
    /** In capitals; `GET` includes `HEAD`. */
    methods?: readonly string[];
    /** `/exact`, `/prefix/*` (the prefix itself and all below it), `*` for one segment elsewhere. */
    path?: `/${string}`;
    /** `api.example.com` or `*.example.com`, without port. */
    hosts?: readonly string[];
    /** By name: a text to equal, `true` for present, `false` for absent. */
    headers?: Readonly<Record<string, string | boolean>>;
  };
}

/** What guards a route. */
export interface Guards {
  /** All hold at once; at most 16. */
  rate_limits?: readonly RateLimit[];
  /**
   * Whether a request must have a token that holds. Left out, it must where something asks for one: `revocation`, `revokes`, or a key
   * with `claim:NAME`.
   */
  token?: "required" | "optional";
  /** Refuses tokens that were revoked. */
  revocation?: {
    /** For how long it may be believed that a token was not revoked, at most `"1m"`; left out, the store is asked each time. */
    cache?: Duration;
    /** @default "deny" */
    on_store_error?: FailureMode;
    /** The status of that refusal. @default 503 */
    unavailable_status?: 401 | 503;
    shadow?: boolean;
  };
  /** A logout: revokes the token of the request, or all of its subject's, once the upstream has answered with 2xx. */
  revokes?: RevokesWhat | { what: RevokesWhat; when?: "success" | "at_once" };
  /** Leaves the upstream alone while it fails. */
  circuit_breaker?: CircuitBreaker;
  /** Carries out a request once, and replays its answer to who repeats it with the same `Idempotency-Key`. */
  idempotency?: Named & {
    /** Whose `Idempotency-Key` it is. */
    key: readonly KeyPart[];
    /** Whether a request without one is refused. @default false */
    required?: boolean;
    /** For how long an answer is replayed. @default "24h" */
    ttl?: Duration;
    /** After how long a request that gave no answer may be carried out again. @default "1m" */
    lease?: Duration;
    /** Which answers are kept: all below 500 if left out. */
    statuses?: readonly Status[];
    /** Most bytes of an answer that is kept, at most 262,144. */
    max_response?: number;
    /** @default "deny" */
    on_store_error?: FailureMode;
  };
  /** Lets the first of equal requests through. */
  dedup?: Named & {
    /** What makes two requests the same. */
    key: readonly KeyPart[];
    /** For how long the first one is known. */
    ttl: Duration;
    /** What becomes of the others: they are answered, or sent on with `X-Tollgate-Duplicate: true`. @default "answer" */
    on_duplicate?: "answer" | "mark";
    /** What they are answered: 200 and `{"tracked": false, "reason": "duplicate"}`, unless this says otherwise. */
    answer?: { status?: number; body?: unknown };
    /** @default "allow" */
    on_store_error?: FailureMode;
  };
  /** Lets one request at a time through. */
  lock?: Named & {
    /** Of which requests. */
    key: readonly KeyPart[];
    /** After how long it is free again in any case: longer than any answer takes. */
    lease: Duration;
    /** How long a request waits for it at most, from its beginning: `"30s"` or less. Left out, it does not wait. */
    wait?: Duration;
    /** The status of the refusal. @default 409 */
    status?: 409 | 423;
    /** @default "deny" */
    on_store_error?: FailureMode;
  };
}

/** What guards that may be shared by routes have. */
export interface Named {
  /** Guards of one kind and name are one, and have to be alike. @default the route's name */
  name?: string;
  /** Decide and log, do not enforce. @default false */
  shadow?: boolean;
}

/** When an upstream is left alone, and for how long. */
export interface CircuitBreaker extends Named {
  /** How many failures within `within` open it; either this or `ratio`. */
  failures?: number;
  /** How many of a hundred calls within `within` must fail to open it. */
  ratio?: number;
  /** With `ratio`: how many calls there must be before it opens. */
  min_volume?: number;
  /** The time within which failures are counted. */
  within: Duration;
  /** How many instances must have seen a failure. @default 1 */
  reporters?: number;
  /** For how long it opens. */
  open_for: Duration;
  /** How many requests are let through then, all of which must succeed. @default 1 */
  half_open_probes?: number;
  /** How long such a request may take before another takes its place. @default "1m" */
  probe_timeout?: Duration;
  /** Which statuses are failures. @default ["5xx"] */
  failure_statuses?: readonly Status[];
  /** @default "local" */
  on_store_error?: FailureMode;
}

/** What is revoked: the token, or all of its subject's, which needs `jwt.max_lifetime`. */
export type RevokesWhat = "token" | "subject";

/** A status, or all of a class. */
export type Status = `${number}` | `${1 | 2 | 3 | 4 | 5}xx`;

/** What is asked of tokens. */
export interface Jwt {
  /** Where the token is. @default "authorization" */
  from?: "authorization" | `${"cookie" | "header"}:${string}`;
  /** The only algorithms a token may be signed with. */
  algorithms: readonly JwtAlgorithm[];
  /** Who may have signed it; at most 64. Without these there is `jwks`. */
  keys?: readonly JwtKey[];
  /** Where more keys are: these are fetched, and fetched again. */
  jwks?: Jwks;
  /** What `iss` must be. */
  issuer?: string;
  /** Of which `aud` must name one. */
  audience?: readonly string[];
  /** How far the issuer's clock may be off, at most `"5m"`. */
  leeway?: Duration;
  /** How long after `iat` a token may expire. */
  max_lifetime?: Duration;
}

/** Where a set of public keys is (a JWK Set, RFC 7517), of at most 64 KiB and 64 keys. */
export interface Jwks {
  /** Such as `https://id.example.com/.well-known/jwks.json`; `http://` is for this machine, in development. */
  url: string;
  /** After how long it is fetched again, `"1m"` to `"1d"`. @default "5m" */
  refresh?: Duration;
}

/** A key that verifies tokens: a secret that `variables` hold, or a public key. */
export interface JwtKey {
  alg?: JwtAlgorithm;
  kid?: string;
  secret?: { env: string };
  pem?: string;
  jwk?: Readonly<Record<string, unknown>>;
}

/** How tokens are signed. */
export type JwtAlgorithm = "HS256" | "HS384" | "HS512" | "RS256" | "ES256" | "EdDSA";

/** A rate limit. */
export interface RateLimit {
  /** Names the counter: limits of one name are one counter, and have to be alike. */
  name: string;
  algorithm: "fixed_window" | "sliding_window_log" | "sliding_window_counter" | "gcra";
  /** How much may pass within `window`, 1 to 1,000,000,000; of a `sliding_window_log` at most 10,000. */
  quota: number;
  /** 1 ms to 366 days. */
  window: Duration;
  /** `gcra` only: how much may pass at one instant. @default quota */
  burst?: number;
  /** Whose requests are counted together: 1 to 8 parts. */
  key: readonly KeyPart[];
  /** What a request consumes: a number, or a header field that a trusted proxy sets. @default 1 */
  cost?: number | { header: string; default?: number; max: number };
  /** Limits of a request that share a tag are all or nothing; without a tag, those with the same `key` are. */
  tag?: string;
  /** Which answers leave what a request consumed consumed: after any other, it is given back. @default "all" */
  count?: "all" | "failures" | { statuses: readonly Status[] };
  /** What happens when the store cannot be asked. @default "local" */
  on_store_error?: FailureMode;
  /** Decide and log, do not enforce. @default false */
  shadow?: boolean;
}

/** A time: a whole number and its unit. */
export type Duration = `${number}${"ms" | "s" | "m" | "h" | "d"}`;

/** What tells subjects apart. With `lower:`, what a part says in small letters: `"lower:body:/email"`. */
export type KeyPart =
  | "client_ip"
  | "route"
  | `const:${string}`
  | ClientText
  | `lower:${ClientText}`;

/** A part that holds text of the client's. */
export type ClientText = "method" | "path" | `${"header" | "cookie" | "query" | "claim" | "body"}:${string}`;

/** When header fields are sent. */
export type Sent = "always" | "refusals" | "never";

/** What a limit does without the store: pass, refuse with 503, or count in this instance's memory. */
export type FailureMode = "allow" | "deny" | "local";
