// What users write. It is compiled, not run.

import { createGuard, fromNode, type Breaker, type Decision, type Guard, type LimitDecision, type Policy } from "tollgate";

import file from "./policy.json" with { type: "json" };

const policy: Policy = {
  $schema: "./policy.schema.json",
  client_ip: { from: "x-forwarded-for", trusted_hops: 2 },
  headers: { ietf: "always", x_ratelimit: "never" },
  routes: [
    {
      name: "api",
      match: { methods: ["GET"], path: "/api/*", hosts: ["*.example.com"], headers: { "x-debug": false } },
      rate_limits: [
        {
          name: "burst",
          algorithm: "gcra",
          quota: 100,
          window: "60s",
          burst: 20,
          key: ["header:x-api-key", "client_ip"],
        },
        {
          name: "daily",
          algorithm: "fixed_window",
          quota: 1,
          window: "1d",
          key: ["const:all"],
          on_store_error: "deny",
          cost: { header: "x-cost", max: 1 },
        },
      ],
    },
  ],
  default: { rate_limits: [], circuit_breaker: { ratio: 50, min_volume: 20, within: "1m", open_for: "30s" } },
};

const guards: Policy = {
  jwt: { from: "cookie:session", algorithms: ["HS256"], keys: [{ alg: "HS256", secret: { env: "JWT_SECRET" } }] },
  routes: [
    { name: "logout", match: { path: "/logout" }, revokes: { what: "token", when: "at_once" } },
    { name: "orders", revocation: { cache: "5s" }, idempotency: { key: ["claim:sub"], statuses: ["2xx", "404"] } },
    { name: "track", dedup: { key: ["body:/id"], ttl: "5m", on_duplicate: "mark" } },
    { name: "refresh", lock: { key: ["claim:sub"], lease: "30s", wait: "5s", status: 423 } },
  ],
};
await createGuard({ policy: guards, variables: { JWT_SECRET: "…" } });

const guard: Guard = await createGuard({
  policy,
  redis: { url: "https://example.upstash.io", token: "…" },
  timeout: "250ms",
  replicas: 3,
});
await createGuard({ policy: file as Policy });
await createGuard({
  policy: JSON.stringify(file),
  redis: null,
  keyPrefix: "app",
  denialCache: 0,
  denialCacheMaxAge: "10s",
  clock: "host",
});

export async function middleware(
  request: Request,
  waitUntil: (promise: Promise<unknown>) => void,
): Promise<Response> {
  const decision: Decision = await guard.check(request, { ip: request.headers.get("x-real-ip"), waitUntil });
  // A refusal has its response, and only a refusal.
  if (!decision.allowed) return decision.response;
  const none: undefined = decision.response;
  const fields: Headers = decision.headers;
  void [none, fields, decision.route?.length, decision.limits.map(({ remaining }) => (remaining ?? 0) + 1)];
  const upstream = await fetch("https://upstream.example", { headers: decision.onward(request.headers) });
  return decision.guards.length > 0 ? decision.complete(upstream) : decision.apply(upstream);
}

// As of Node's `http`, without its types.
declare const req: { method: string; url: string; rawHeaders: string[]; socket: { encrypted?: boolean } };
const sent = await guard.check(fromNode(req), { ip: "192.0.2.1" });
const decided: string | null = sent.url;
if (sent.allowed) sent.abandon();
void [decided, fromNode({ method: undefined, url: undefined, rawHeaders: [] }).headers.get("x")];

const answer: LimitDecision = await guard.limit("burst", ["k-123", "192.0.2.1"] as const, { cost: 2 });
const wait: number = answer.allowed ? 0 : answer.retryAfterMs;
const local: boolean = answer.source === "local" && answer.ruling !== "unavailable";
void [
  wait,
  local,
  await guard.limit("daily", []),
  await guard.check({ method: "GET", url: "http://localhost/", headers: new Map<string, string>() as never }),
];

const lock = await guard.lock("refresh", "user-7", { lease: "1m" });
if (lock.acquired) void [lock.fence, lock.holder, (await lock.extend("1m")) || (await lock.release())];
const { first } = await guard.dedup("track", ["event-1"]);
const revoked: number = (await guard.revoke({ subject: "user-7", issuer: "https://id.example" })).forMs;
const breaker: Breaker = await (await guard.breaker("api")).open("5m");
void [first, revoked, breaker.state === "half_open" && breaker.freeProbes, await breaker.close()];
