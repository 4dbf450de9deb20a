// What the npm package promises, asked in every runtime that it is for: Node, Deno, Bun, workerd, Vercel's edge runtime.

import { equal, eventually, holds, rejects } from "./checks.mjs";

/**
 * `settings` says where the store is, its doubles that fail, and a server that keeps documents:
 * `{ url, token, failing: { down, silent, garbage, broken }, documents }`. `shares` says whether a request may wait for another's promise.
 */
export async function run(checks, { createGuard, fromNode, settings, shares = false }) {
  const redis = { url: settings.url, token: settings.token };
  const failing = {
    ...Object.fromEntries(Object.entries(settings.failing).map(([name, url]) => [name, { url, token: "t" }])),
    "with another token": { ...redis, token: "not-the-token" },
  };
  let counter = 0;
  for (const [name, body] of Object.entries(ALL)) {
    // What one check counts is nobody else's, and its store may be as slow as a busy machine makes it.
    const keyPrefix = `${name.length}-${(counter += 1)}`;
    const guard = (policy, options = {}) => createGuard({ policy, redis, keyPrefix, timeout: "10s", ...options });
    const document = new Document(`${settings.documents}/${counter}`);
    await checks.check(name, () => body({ guard, createGuard, fromNode, redis, failing, document, shares }));
  }
  for (const [name, broken] of Object.entries(failing)) {
    for (const [what, body] of Object.entries(FAILURES)) {
      const guard = (policy, options = {}) =>
        createGuard({ policy, redis: broken, timeout: "200ms", ...options });
      await checks.check(`${what}: the store is ${name}`, () => quietly(() => body(guard)));
    }
  }
}

const ALL = {
  async "as many requests pass as may, and answers say so"({ guard }) {
    const guarded = await guard(one({ quota: 2, window: "1d" }));
    const first = await guarded.check(request("/"), { ip: "192.0.2.1" });
    equal([first.allowed, first.route, first.degraded, first.response], [true, "all", false, undefined]);
    const { resetAfterMs, ...limit } = first.limits[0];
    holds(resetAfterMs > 0 && resetAfterMs <= 86_400_000, `a day at most, found ${resetAfterMs}`);
    const expected = {
      name: "one",
      allowed: true,
      ruling: "admitted",
      limit: 2,
      remaining: 1,
      retryAfterMs: 0,
    };
    equal(limit, { ...expected, source: "store", degraded: false });
    equal(first.headers.get("ratelimit-policy"), '"one";q=2;w=86400');
    holds(/^"one";r=1;t=\d+$/.test(first.headers.get("ratelimit")), first.headers.get("ratelimit"));
    equal((await guarded.check(request("/"), { ip: "192.0.2.1" })).limits[0].remaining, 0);
    equal((await guarded.check(request("/"), { ip: "192.0.2.2" })).limits[0].remaining, 1);
  },

  async "a refusal comes with its answer"({ guard }) {
    const guarded = await guard(one({ quota: 1, window: "1d" }));
    await guarded.check(request("/"), { ip: "192.0.2.1" });
    const { allowed, response, headers, limits } = await guarded.check(request("/"), { ip: "192.0.2.1" });
    equal([allowed, limits[0].ruling, limits[0].allowed], [false, "refused", false]);
    holds(limits[0].retryAfterMs > 0 && limits[0].retryAfterMs <= 86_400_000, "within a day");
    equal([response.status, response.headers.get("content-type")], [429, "application/problem+json"]);
    equal(response.headers.get("retry-after"), headers.get("retry-after"));
    equal(response.headers.get("x-ratelimit-limit"), "1");
    const problem = await response.json();
    equal([problem.status, problem["violated-policies"]], [429, ["one"]]);
    equal(problem.error.code, "RATE_LIMIT_EXCEEDED");
    equal(problem.error.retryAfter, Number(response.headers.get("retry-after")));
    const head = await guarded.check(request("/", { method: "HEAD" }), { ip: "192.0.2.1" });
    equal([head.response.status, head.response.body], [429, null]);
  },

  async "a refusal is remembered and costs no further call"({ guard }) {
    const guarded = await guard(one({ quota: 1, window: "1d" }));
    const sources = [];
    for (let i = 0; i < 3; i += 1) sources.push((await guarded.check(request("/"))).limits[0].source);
    equal(sources, ["store", "store", "denials"]);
    const forgetful = await guard(one({ quota: 1, window: "1d" }), { denialCache: 0 });
    for (let i = 0; i < 2; i += 1) equal((await forgetful.check(request("/"))).limits[0].source, "store");
    const hasty = await guard(one({ quota: 1, window: "1d" }), { denialCacheMaxAge: "1ms" });
    for (let i = 0; i < 3; i += 1) {
      equal((await hasty.check(request("/"))).limits[0].source, "store");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  },

  async "a request without a route passes, and so does one without limits"({ guard }) {
    const guarded = await guard({ routes: [{ name: "open", match: { path: "/open" } }] });
    const [none, open] = [await guarded.check(request("/else")), await guarded.check(request("/open?a=1"))];
    equal([none.allowed, none.route, none.limits, [...none.headers]], [true, null, [], []]);
    equal([open.allowed, open.route, open.limits, [...open.headers]], [true, "open", [], []]);
  },

  async "routes see method, host, path and fields"({ guard }) {
    const route = (name, match) => ({ name, match });
    const guarded = await guard({
      routes: [
        route("method", { methods: ["PUT"] }),
        route("host", { hosts: ["*.other.example"] }),
        route("header", { headers: { "x-debug": "yes" } }),
        route("path", { path: "/a/*/c" }),
      ],
    });
    const taken = async (...of) => (await guarded.check(request(...of))).route;
    equal(await taken("/", { method: "PUT" }), "method");
    equal(await taken("https://sub.other.example/?x"), "host");
    equal(await taken("/", { headers: { "X-Debug": "yes" } }), "header");
    equal(await taken("/a//b/%63;p/?q=/"), "path");
  },

  async "exactly as many pass when many instances ask at once"({ guard }) {
    const policy = one({ quota: 40, window: "1d" });
    const guards = await Promise.all(Array.from({ length: 4 }, () => guard(policy)));
    const asked = Array.from({ length: 100 }, (_, i) =>
      guards[i % 4].check(request("/"), { ip: "192.0.2.7" }),
    );
    const allowed = (await Promise.all(asked)).filter((decision) => decision.allowed);
    equal(allowed.length, 40);
    const remaining = allowed.map(({ limits }) => limits[0].remaining).sort((a, b) => a - b);
    equal(
      remaining,
      Array.from({ length: 40 }, (_, i) => i),
    );
  },

  async "limit counts where check does"({ guard }) {
    const key = ["const:tenants", "header:x-tenant", "client_ip"];
    const policy = one({ quota: 6, window: "1d", key });
    const [checking, limiting] = await Promise.all([guard(policy), guard(JSON.stringify(policy))]);
    const tenant = request("/", { headers: { "x-tenant": "acme" } });
    for (let left = 5; left > 0; left -= 2) {
      equal((await checking.check(tenant, { ip: "2001:db8::1" })).limits[0].remaining, left);
      // Another address of the same network.
      equal((await limiting.limit("one", ["acme", "2001:db8::2"])).remaining, left - 1);
    }
    const [check, limit] = [
      await checking.check(tenant, { ip: "2001:db8::1" }),
      await limiting.limit("one", ["acme", "2001:db8::1"]),
    ];
    equal([check.allowed, limit.allowed, limit.ruling, limit.remaining], [false, false, "refused", 0]);
    holds(limit.retryAfterMs > 0 && limit.resetAfterMs > 0, "more becomes available later");
    equal((await limiting.limit("one", ["acme", "2001:db8:0:1::1"])).allowed, true);
    equal((await limiting.limit("one", ["other", "2001:db8::1"])).allowed, true);
  },

  async "limit consumes what it is told, or what the policy says"({ guard }) {
    const cost = { header: "x-cost", default: 3, max: 10 };
    const guarded = await guard(one({ quota: 10, window: "1d", key: ["header:x-api-key"], cost }));
    equal((await guarded.limit("one", "k", { cost: 4 })).remaining, 6);
    equal((await guarded.limit("one", "k")).remaining, 3);
    equal((await guarded.limit("one", "k", { cost: 4 })).allowed, false);
    equal((await guarded.limit("one", ["k"], { cost: undefined, waitUntil: null })).remaining, 0);
    const never = await guarded.limit("one", "else", { cost: 11 });
    equal([never.allowed, never.remaining], [false, 10]);
    holds(never.retryAfterMs === Infinity, `never, found ${never.retryAfterMs}`);
  },

  async "a limit in shadow mode lets everything pass"({ guard }) {
    const guarded = await guard(one({ quota: 1, window: "1d", shadow: true }));
    await guarded.check(request("/"));
    const { allowed, limits, headers } = await guarded.check(request("/"));
    equal([allowed, limits[0].allowed, limits[0].ruling, [...headers]], [true, true, "shadow_refused", []]);
  },

  async "what a refused request was charged is given back behind its answer"({ guard }) {
    const { guarded, refused } = await twoLimits(guard);
    const promises = [];
    equal((await refused((promise) => promises.push(promise))).allowed, false);
    equal(promises.length, 1);
    await Promise.all(promises);
    // One for the request that passed, and one for this.
    equal((await guarded.limit("wide", "a")).remaining, 8);
  },

  async "it is given back without waitUntil too, and with one that fails"({ guard }) {
    const failing = () => {
      throw new TypeError("Illegal invocation");
    };
    for (const [index, waitUntil] of [undefined, () => undefined, failing].entries()) {
      const { guarded, refused } = await twoLimits(guard, { keyPrefix: `given-back-${index}` });
      const { result, lines } = await quietly(() => refused(waitUntil));
      equal([result.allowed, lines.length], [false, waitUntil === failing ? 1 : 0]);
      holds(
        lines.every((line) => line.includes("waitUntil failed (Illegal invocation)")),
        lines[0],
      );
      let asked = 0;
      await eventually("what was charged is given back", async () => {
        asked += 1;
        return (await guarded.limit("wide", "a")).remaining === 9 - asked;
      });
    }
  },

  async "a lock is held until the end of the body, and its fence is told the upstream"({ guard }) {
    const guarded = await guard(all({ lock: { key: ["client_ip"], lease: "1h" } }));
    const ask = () => guarded.check(request("/"), { ip: "192.0.2.1" });
    const locked = async () => {
      const { allowed, response, guards } = await ask();
      equal([allowed, response?.status, guards[0].kind, guards[0].ruling], [false, 409, "lock", "refused"]);
    };
    const first = await ask();
    equal([first.allowed, first.guards[0].allowed], [true, true]);
    await locked();
    const sent = first.onward(new Headers({ "x-tollgate-fence": "forged", accept: "text/html" }));
    const fence = Number(sent.get("x-tollgate-fence"));
    holds(fence > 0 && sent.get("accept") === "text/html", [...sent].join());
    let pieces;
    const body = new ReadableStream({ start: (controller) => void (pieces = controller) });
    const page = await first.complete(new Response(body, { status: 201, headers: { "x-page": "kept" } }));
    equal([page.status, page.headers.get("x-page")], [201, "kept"]);
    pieces.enqueue(new TextEncoder().encode("hello"));
    await locked();
    pieces.close();
    equal(await page.text(), "hello");
    const second = await admitted(ask);
    holds(Number(second.onward(new Headers()).get("x-tollgate-fence")) > fence, "a later one is larger");
    // Nobody wants the rest.
    const abandoned = await second.complete(new Response(new ReadableStream()));
    await locked();
    await abandoned.body.cancel();
    // One without a body is over at once, and what was completed is completed.
    const third = await admitted(ask);
    equal((await third.complete(new Response(null, { status: 204 }))).status, 204);
    equal((await third.complete(new Response("again"))).status, 200);
    await admitted(ask);
  },

  async "of equal requests the first passes, whatever the body of the others says beside"({ guard }) {
    const guarded = await guard(all({ dedup: { key: ["body:/id"], ttl: "1h" } }));
    const send = (body) => request("/", { method: "POST", body: JSON.stringify(body) });
    const first = send({ id: 1, at: 1 });
    equal((await guarded.check(first)).allowed, true);
    equal(await first.json(), { id: 1, at: 1 });
    const second = await guarded.check(send({ id: 1, at: 2 }));
    equal([second.allowed, await second.response.json()], [false, { tracked: false, reason: "duplicate" }]);
    equal((await guarded.check(send({ id: 2 }))).allowed, true);
    const { method, url, headers } = send({});
    await rejects(guarded.check({ method, url, headers }), /^request: found an object, expected a Request with its body/);
  },

  async "an answer is given again to who asks again"({ guard }) {
    const guarded = await guard(all({ idempotency: { key: ["client_ip"], required: true } }));
    const ask = (key) => guarded.check(request("/", { method: "POST", headers: key && { "idempotency-key": key } }));
    equal((await ask()).response.status, 400);
    const first = await ask("one");
    equal((await ask("one")).response.status, 409);
    const bytes = Uint8Array.from([0, 255, 128, 10]);
    const given = await first.complete(new Response(bytes, { status: 201, headers: { "x-order": "7" } }));
    equal([...new Uint8Array(await given.arrayBuffer())], [...bytes]);
    const again = await admitted(() => ask("one"), ({ response }) => response.status === 201);
    equal([again.response.headers.get("idempotent-replayed"), again.response.headers.get("x-order")], ["true", "7"]);
    equal([...new Uint8Array(await again.response.arrayBuffer())], [...bytes]);
  },

  async "an answer without a body is given again without one"({ guard }) {
    const guarded = await guard(all({ idempotency: { key: ["client_ip"], required: true } }));
    for (const status of [204, 205, 304]) {
      const ask = () => guarded.check(request("/", { method: "POST", headers: { "idempotency-key": `${status}` } }));
      await (await ask()).complete(new Response(null, { status, headers: { "x-order": "7" } }));
      const { response } = await admitted(ask, ({ response }) => response.status === status);
      equal([response.body, response.headers.get("x-order")], [null, "7"], status);
    }
  },

  async "a breaker hears of answers, and opens"({ guard }) {
    const guarded = await guard(all({ circuit_breaker: { failures: 2, within: "1m", open_for: "1h" } }));
    for (let i = 0; i < 2; i += 1) {
      const decision = await guarded.check(request("/"));
      equal((await decision.complete(new Response("no", { status: 502 }))).status, 502);
    }
    const refused = await admitted(() => guarded.check(request("/")), ({ allowed }) => !allowed);
    equal([refused.response.status, refused.guards[0].kind], [503, "circuit_breaker"]);
  },

  async "a lock that a program holds is not a request's, and the other way round"({ guard }) {
    const guarded = await guard(all({ lock: { name: "job", key: ["client_ip"], lease: "1h" } }));
    const ask = () => guarded.check(request("/"), { ip: "192.0.2.1" });
    const lock = await guarded.lock("job", "192.0.2.1", { lease: "1m" });
    equal([lock.acquired, lock.forMs, lock.holder.length], [true, 60_000, 32]);
    equal((await ask()).response.status, 409);
    equal(await lock.extend("2m"), true);
    const other = await guarded.lock("job", ["192.0.2.1"]);
    holds(!other.acquired && other.forMs > 60_000 && other.forMs <= 120_000, JSON.stringify(other));
    equal((await guarded.lock("job", "192.0.2.2", { holder: "0".repeat(31) + "a" })).holder, "0".repeat(31) + "a");
    equal([await lock.release(), await lock.release(), await lock.extend()], [true, false, false]);
    const held = await ask();
    equal([held.allowed, (await guarded.lock("job", "192.0.2.1")).acquired], [true, false]);
    await held.complete(new Response(null));
    let again;
    await eventually("it is free", async () => (again = await guarded.lock("job", "192.0.2.1")).acquired);
    holds(again.fence > lock.fence, "a later one is larger");
    await rejects(guarded.lock("other", "a"), /^name: the policy has no `lock` of this name/);
    await rejects(guarded.lock("job", []), /^key: its key takes a value for each of `client_ip`/);
    await rejects(guarded.lock("job", "192.0.2.1", { lease: "soon" }), /^lease: found a text that is none/);
    await rejects(guarded.lock("job", "192.0.2.1", { holder: "me" }), /^holder: .*32 hexadecimal digits/);
    await rejects(guarded.lock("job", "192.0.2.1", { leese: "1s" }), /^options: found `leese`/);
  },

  async "what a program marks is a duplicate to requests"({ guard }) {
    const guarded = await guard(all({ dedup: { name: "event", key: ["header:x-id"], ttl: "1h" } }));
    equal(await guarded.dedup("event", "a"), { first: true, forMs: 3_600_000 });
    equal((await guarded.dedup("event", "a")).first, false);
    equal(await guarded.forget("event", "a"), undefined);
    equal((await guarded.dedup("event", "a")).first, true);
    equal((await guarded.check(request("/", { headers: { "x-id": "a" } }))).allowed, false);
    equal((await guarded.check(request("/", { headers: { "x-id": "b" } }))).allowed, true);
  },

  async "a limit is looked at and reset"({ guard }) {
    const guarded = await guard(one({ quota: 2, window: "1d", key: ["header:x-id"] }));
    const fresh = { limit: 2, remaining: 2, resetAfterMs: 0 };
    equal(await guarded.inspect("one", "a"), fresh);
    for (let i = 0; i < 3; i += 1) equal((await guarded.limit("one", "a")).allowed, i < 2);
    equal((await guarded.inspect("one", "a")).remaining, 0);
    equal(await guarded.reset("one", "a"), { everywhereAfterMs: 1000 });
    equal(await guarded.inspect("one", "a"), fresh);
    equal((await guarded.limit("one", "a")).allowed, true);
    await rejects(guarded.inspect("two", "a"), /^name: the policy has no `rate_limits` of this name/);
    await rejects(guarded.reset("one", ["a", "b"]), /^key: /);
    await rejects(guarded.forget("one", "a"), /^name: the policy has no `dedup` of this name/);
  },

  async "a breaker is set by hand"({ guard }) {
    const circuit_breaker = { name: "up", failures: 2, within: "1m", open_for: "1h" };
    const guarded = await guard(all({ circuit_breaker }));
    const breaker = await guarded.breaker("up");
    equal([breaker.state, breaker.generation], ["closed", 0]);
    const open = await breaker.open("5m");
    holds(open.state === "open" && open.forMs > 0 && open.forMs <= 300_000, JSON.stringify(open));
    equal((await guarded.check(request("/"))).response.status, 503);
    equal((await open.close()).state, "closed");
    await admitted(() => guarded.check(request("/")));
    await rejects(guarded.breaker("down"), /^name: the policy has no `circuit_breaker` of this name/);
    await rejects(breaker.open(5), /^for: found `5`/);
  },

  async "tokens are revoked by what is known of them"({ guard }) {
    const keys = [{ alg: "HS256", secret: { env: "SECRET" } }];
    const jwt = { algorithms: ["HS256"], keys, max_lifetime: "1d" };
    const policy = { jwt, routes: [{ name: "all", revocation: {} }] };
    const guarded = await guard(policy, { variables: { SECRET: "a secret of thirty-two bytes, yes" } });
    equal((await guarded.revoke({ jti: "7", issuer: "here" })).forMs >= 86_400_000, true);
    equal((await guarded.revoke({ subject: "ada" })).forMs >= 86_400_000, true);
    equal((await guarded.revoke({ subject: "ada" })).everywhereAfterMs, 0);
    await rejects(guarded.revoke({ token: "none" }), /^token: /);
    await rejects(guarded.revoke({ token: "a", jti: "b" }), /^revoke: .*one of token, jti, subject/);
    await rejects(guarded.revoke({ token: "a", issuer: "b" }), /^issuer: /);
    await rejects(guarded.revoke({}), /^revoke: /);
    await rejects((await guard(one({ quota: 1, window: "1d" }))).revoke({ jti: "7" }), /^policy: no route/);
  },

  async "signatures are verified, and a logout is known to others"({ guard }) {
    for (const alg of Object.keys(ALGORITHMS)) {
      const { jwk, signed } = await signer(alg);
      const policy = {
        jwt: { algorithms: [alg], keys: [{ jwk }] },
        routes: [
          { name: "logout", match: { path: "/logout" }, revokes: "token" },
          { name: "all", revocation: {} },
        ],
      };
      const [here, there] = [await guard(policy), await guard(policy)];
      const now = Math.floor(Date.now() / 1000);
      const token = await signed({ sub: "ann", jti: `${alg}-${now}`, exp: now + 60 });
      const ask = (guarded, path, token) => guarded.check(bearing(token, path));
      equal([(await ask(here, "/", token)).allowed, (await ask(there, "/", token)).allowed], [true, true], alg);
      for (const wrong of [`${token.slice(0, -8)}AAAAAAAA`, await signed({ exp: now - 60 }), "a.b.c"])
        equal((await ask(here, "/", wrong)).response.status, 401, alg);
      const logout = await ask(here, "/logout", token);
      equal((await logout.complete(new Response("bye"))).status, 200);
      equal([(await ask(there, "/", token)).response.status, (await ask(here, "/", token)).response.status], [401, 401]);
    }
  },

  async "keys are fetched, once for all who wait where that may be"({ guard, document, shares }) {
    const signers = await Promise.all(Object.keys(ALGORITHMS).map((alg) => signer(alg)));
    await document.put(keys(signers), { delay: 100 });
    const guarded = await guard(fetching(document.url));
    const tokens = await Promise.all(signers.map(({ signed }) => signed()));
    const ask = (token) => guarded.check(bearing(token));
    const decisions = await Promise.all(Array.from({ length: 30 }, (_, i) => ask(tokens[i % 3])));
    equal(decisions.map(({ allowed }) => allowed), Array(30).fill(true));
    equal(await document.asked(), shares ? 1 : 30);
    const forged = await (await signer("ES256")).signed();
    equal([(await ask(forged)).response.status, (await ask(tokens[0])).allowed], [401, true]);
    equal(await document.asked(), shares ? 1 : 30);
  },

  async "keys that are new are fetched, and those that are gone are forgotten"({ guard, document }) {
    const [first, second] = await Promise.all(["ES256", "EdDSA"].map((alg) => signer(alg)));
    const [old, young] = [await first.signed(), await second.signed()];
    await document.put(keys([first]));
    const guarded = await guard(fetching(document.url));
    const status = async (token) => (await guarded.check(bearing(token))).response?.status ?? 200;
    equal([await status(old), await status(young)], [200, 401]);
    await document.put(keys([second]));
    equal([await status(young), await document.asked()], [401, 1]);
    await later(10_000, async () => equal([await status(young), await status(old)], [200, 401]));
    // Nobody asks for what comes next, but in time it is fetched all the same.
    await document.put(keys([first]));
    await later(311_000, async () => equal([await status(young), await status(old)], [401, 200]));
    equal(await document.asked(), 3);
    // What cannot be fetched leaves what there is.
    await document.put("{");
    await later(612_000, () => quietly(async () => equal([await status(old), await status(young)], [200, 401])));
    equal(await document.asked(), 4);
  },

  async "a signature is asked about again if the key of its name has become another"({ guard, document }) {
    const signers = await Promise.all(["old", "old", "new"].map((kid) => signer("ES256", kid)));
    const [first, second, third] = signers;
    await document.put(keys([first]));
    const guarded = await guard(fetching(document.url));
    const ask = async ({ signed }) => (await guarded.check(bearing(await signed()))).allowed;
    equal(await ask(first), true);
    await document.put(keys([second, third]));
    const subtle = Object.getPrototypeOf(crypto.subtle);
    const { verify } = subtle;
    const { promise: verified, resolve: isVerified } = deferred();
    const { promise: going, resolve: goOn } = deferred();
    subtle.verify = async (...question) => {
      subtle.verify = verify;
      const holds = await crypto.subtle.verify(...question);
      isVerified();
      await going;
      return holds;
    };
    const waiting = ask(first);
    await verified;
    equal(await later(10_000, () => ask(third)), true);
    goOn();
    // Still later: a clock that is set back would have the keys fetched once more.
    const told = await later(10_000, async () => [await waiting, await document.asked(), await ask(second)]);
    equal(told, [false, 2, true]);
  },

  async "nobody passes until keys can be fetched"({ guard, failing, document }) {
    const one = await signer("RS256");
    const [token, good] = [await one.signed(), keys([one])];
    const elsewhere = new Document(`${document.url}/elsewhere`);
    await elsewhere.put(good);
    const wrong = [
      ["{", {}, "expected a JWK Set"],
      [good, { status: 500 }, "status 500"],
      [good.padEnd(65_537), {}, "65537 bytes"],
      [good, { status: 302, location: new URL(elsewhere.url).pathname }, ""],
    ];
    const guarded = await guard(fetching(document.url));
    let time = 0;
    for (const [text, answer, why] of wrong) {
      await document.put(text, answer);
      const { result, lines } = await later(time, () => quietly(() => guarded.check(bearing(token))));
      equal([result.response.status, (await result.response.json()).error.code], [503, "GUARD_UNAVAILABLE"], why);
      holds(lines.length === 1 && lines[0].includes("jwt.jwks: ") && lines[0].includes(why), lines.join("\n"));
      time += 10_000;
    }
    equal([await document.asked(), await elsewhere.asked()], [wrong.length, 0]);
    await document.put(good.padEnd(65_536));
    equal((await later(time, () => guarded.check(bearing(token)))).allowed, true);
    const down = await guard(fetching(`${failing.down.url}/keys`));
    equal((await quietly(() => down.check(bearing(token)))).result.response.status, 503);
    await rejects(
      guard(fetching("http://id.example.com/keys")),
      /^policy\.jwt\.jwks\.url: found `http:\/\/id\.example\.com\/keys`, expected `https:/,
    );
  },

  async "keys are waited for five seconds at most"({ guard, document }) {
    const one = await signer("ES256");
    await document.put(keys([one]), { delay: 60_000 });
    const guarded = await guard(fetching(document.url));
    const begun = Date.now();
    const { result } = await quietly(async () => guarded.check(bearing(await one.signed())));
    const waited = Date.now() - begun;
    equal(result.response.status, 503);
    holds(waited >= 4_900 && waited < 9_000, `${waited} ms`);
  },

  async "secrets are variables, which no error shows"({ createGuard }) {
    const keys = [{ alg: "HS256", secret: { env: "SECRET" } }];
    const policy = { jwt: { algorithms: ["HS256"], keys }, routes: [{ name: "all", token: "required" }] };
    const made = (variables) => quietly(() => createGuard({ policy, redis: null, variables }));
    await made({ SECRET: "s".repeat(32), OTHER: undefined });
    for (const variables of [undefined, {}, { SECRET: "too-short" }])
      await rejects(made(variables), /SECRET/);
    for (const variables of [{ SECRET: 7654321 }, ["too-short"], "too-short"]) {
      const error = await made(variables).then(
        () => undefined,
        (error) => error,
      );
      holds(error instanceof TypeError && !/7654321|too-short/.test(error.message), String(error));
    }
  },

  async "header fields are put on any response, which stays as it is"({ guard }) {
    const guarded = await guard(one({ quota: 5, window: "1d" }));
    const decision = await guarded.check(request("/"));
    const page = new Response("<p>hello</p>", {
      status: 201,
      headers: { "content-type": "text/html", ratelimit: "old" },
    });
    page.headers.append("set-cookie", "a=1; Path=/");
    page.headers.append("set-cookie", "b=2");
    const extended = decision.apply(page);
    equal([extended.status, await extended.text()], [201, "<p>hello</p>"]);
    equal(extended.headers.get("content-type"), "text/html");
    equal(extended.headers.get("ratelimit"), decision.headers.get("ratelimit"));
    equal(
      [...extended.headers].filter(([name]) => name === "set-cookie").map(([, value]) => value),
      ["a=1; Path=/", "b=2"],
    );
    equal(page.headers.get("ratelimit"), "old");
    equal(decision.apply(new Response(null, { status: 204 })).status, 204);
  },

  async "a refused request can be answered in other words"({ guard }) {
    const guarded = await guard(one({ quota: 1, window: "1d" }));
    await guarded.check(request("/"));
    const decision = await guarded.check(request("/"));
    const page = decision.apply(
      new Response("later!", { status: 429, headers: { "content-type": "text/plain" } }),
    );
    equal([page.headers.get("content-type"), await page.text()], ["text/plain", "later!"]);
    equal(page.headers.get("retry-after"), decision.response.headers.get("retry-after"));
  },

  async "an address that is not known is one that all such clients share"({ guard }) {
    const guarded = await guard(one({ quota: 2, window: "1d" }));
    equal((await guarded.check(request("/"))).limits[0].remaining, 1);
    equal((await guarded.check(request("/"), { ip: null })).limits[0].remaining, 0);
    equal((await guarded.check(request("/"), { ip: "::ffff:192.0.2.1" })).limits[0].remaining, 1);
    equal((await guarded.check(request("/"), { ip: "192.0.2.1" })).limits[0].remaining, 0);
  },

  async "anything with method, url and headers is a request"({ guard }) {
    const guarded = await guard(one({ quota: 2, window: "1d", key: ["header:x-api-key"] }));
    const like = { method: "GET", url: "http://localhost/x", headers: new Headers({ "x-api-key": "k" }) };
    equal((await guarded.check(like)).limits[0].remaining, 1);
    equal((await guarded.limit("one", "k")).remaining, 0);
  },

  async "what a URL means is decided on, and told"({ guard }) {
    const guarded = await guard({
      routes: [
        { name: "me", match: { path: "/me/*" } },
        { name: "other", match: { hosts: ["other.example"] } },
      ],
    });
    const taken = async (url) => {
      const decision = await guarded.check({ method: "GET", url, headers: new Headers() });
      return [decision.route, decision.url];
    };
    equal(await taken("http://a.example/me//../x"), ["me", "http://a.example/me/x"]);
    equal(await taken("http://a.example/x/%2e%2e/me/x?q=/.."), ["me", "http://a.example/me/x?q=/.."]);
    equal(await taken("http://a.example/me\\..\\x"), [null, "http://a.example/x"]);
    equal(await taken("http://a.example#b/me/x"), [null, "http://a.example/"]);
    equal(await taken("http://u:p@OTHER.example:80/x#y"), ["other", "http://other.example/x"]);
    equal((await guarded.check(request("/me/x"))).url, "https://app.example/me/x");
    // What Workers make of the target `*`.
    for (const [method, route] of [["OPTIONS", "other"], ["GET", null]]) {
      const { url, ...decision } = await guarded.check({ method, url: "http://other.example*", headers: new Headers() });
      equal([decision.route, url], [route, route && "http://other.example/"], method);
    }
    for (const url of ["http://a b/me/x", "http://[::1/", "http://a:99999/", "ws://a.example/", "http://"]) {
      const { allowed, url: decided, response, route } = await guarded.check({ method: "GET", url, headers: new Headers() });
      equal([allowed, decided, route, response.status], [false, null, null, 400], url);
      equal((await response.json()).error.code, "INVALID_URL");
    }
    await rejects(
      guarded.check({ method: "GET", url: "/me/x", headers: new Headers() }),
      /^url: found a string, expected an absolute URL/,
    );
  },

  async "only a GET asks the upstream for another protocol"({ guard }) {
    const guarded = await guard({});
    for (const [method, upgrade] of [["GET", "websocket"], ["POST", null], ["HEAD", null]]) {
      const decision = await guarded.check(request("/", { method }));
      equal(decision.onward(new Headers({ upgrade: "websocket", accept: "a" })).get("upgrade"), upgrade, method);
    }
    // Some runtimes have a body with that, too.
    for (const [length, upgrade] of [["0", "websocket"], ["8", null]]) {
      const headers = new Headers({ upgrade: "websocket", "content-length": length });
      const { body } = new Response("a body");
      const decision = await guarded.check({ method: "GET", url: "https://app.example/", headers, body });
      equal(decision.onward(headers).get("upgrade"), upgrade, length);
    }
  },

  async "requests of Node's are what was sent, whatever their target looks like"({ guard, fromNode }) {
    const guarded = await guard({ routes: [{ name: "login", match: { path: "/auth/login" } }] });
    const sent = (url, host = "a.example", more = {}) =>
      fromNode({ method: "GET", url, rawHeaders: host === null ? [] : ["Host", host], ...more });
    for (const [target, url] of [
      ["/auth/login?a=//b", "http://a.example/auth/login?a=//b"],
      ["//auth/login", "http://a.example//auth/login"],
      ["///auth/login", "http://a.example///auth/login"],
      ["http://A.example/auth/login", "http://a.example/auth/login"],
    ]) {
      equal(sent(target).url, url);
      equal((await guarded.check(sent(target))).route, "login", target);
    }
    for (const [target, host, url] of [
      ["//", "a.example", "http://a.example//"],
      ["/x", "A.Example:8080", "http://a.example:8080/x"],
      ["/x", "a.example:80", "http://a.example/x"],
      ["/x", "[0:0::1]:3000", "http://[::1]:3000/x"],
      ["/x", "", "http://host.invalid/x"],
      ["/x", null, "http://host.invalid/x"],
      ["http://a.example", "a.example", "http://a.example/"],
      ["/.well-known/...", "[::1]:3000", "http://[::1]:3000/.well-known/..."],
    ]) {
      equal(sent(target, host).url, url);
      equal((await guarded.check(sent(target, host))).allowed, true, target);
    }
    equal(sent("/rest", "a.example", { originalUrl: "/auth/login", socket: { encrypted: true } }).url, "https://a.example/auth/login");
    equal(sent("/x", null, { authority: "b.example" }).url, "http://b.example/x");
    equal(sent("*", "a.example", { method: "OPTIONS" }).url, "http://a.example/");
    const rawHeaders = [":path", "/", "Accept", "a", "Authorization", "one", "authorization", "two", "Cookie", "a=1", "cookie", "b=2"];
    const { headers } = sent("/", null, { rawHeaders });
    equal([...headers], [["accept", "a"], ["authorization", "one, two"], ["cookie", "a=1; b=2"]]);
    for (const none of [undefined, {}, request("/")])
      await rejects((async () => fromNode(none))(), /^req: expected an IncomingMessage of Node's/);
  },

  async "what is made of a request of Node's that has two readings is refused as well"({ guard, fromNode }) {
    const guarded = await guard({ routes: [{ name: "login", match: { path: "/auth/login" } }] });
    const sent = (url, host = "a.example", more = {}) =>
      fromNode({ method: "POST", url, rawHeaders: host === null ? [] : ["Host", host], ...more });
    const refused = async (request, code, what) => {
      const made = new Request(request.url, { method: request.method, headers: request.headers, body: "a" });
      for (const like of [request, { ...request }, made, made.clone(), new Request(made)]) {
        const { allowed, url, response } = await guarded.check(like);
        equal([allowed, url, response?.status, (await response?.json())?.error.code], [false, null, 400, code], what);
      }
      await rejects((async () => fetch(request.url))(), /./);
    };
    // Routers read these as they are, and others do not.
    for (const target of [
      "/auth/x/../login",
      "/auth/%2e%2E/y",
      "/x/.",
      "/x/..?y",
      "\\auth\\login",
      "/auth\\login",
      "/auth/login#x",
      "/x?a=1#&b=2",
      "/auth/lo\tgin",
      "/auth/login ",
      "http:/auth/login",
      "auth/login",
      "?/auth/login",
      "",
      "*",
      "*/auth/login",
      "http://b.example/auth/login",
      "http:///auth/login",
      "http://a.example?/auth/login",
      "http://a.example/x/../auth/login",
    ])
      await refused(sent(target), "AMBIGUOUS_PATH", target);
    await refused(sent("http://a.example/x", null), "AMBIGUOUS_PATH");
    await refused(sent("/x", "a.example", { authority: "b.example" }), "AMBIGUOUS_PATH");
    // Some go by a part of them, and others by another part.
    for (const host of ["a#b", "a/auth/login?", "[::1", "a:99999", "a:b", "a b", "u@a", "%61.example", "a, a", "127.1", "b\u00fc.example"])
      await refused(sent("/x", host), "INVALID_URL", host);
    for (const value of ["a\0b", "a\r\nb"])
      await refused(sent("/x", null, { rawHeaders: ["Host", "a.example", "X-Odd", value] }), "INVALID_HEADER", value);
  },

  async "a body that breaks off is the client's failure"({ guard }) {
    const guarded = await guard(all({ dedup: { key: ["body:/id"], ttl: "1h" } }));
    const body = new ReadableStream({ pull: (controller) => controller.error(new Error("the client has left")) });
    const { allowed, url, response } = await guarded.check(request("/", { method: "POST", body, duplex: "half" }));
    equal([allowed, url, response.status], [false, "https://app.example/", 400]);
    equal((await response.json()).error.code, "REQUEST_INCOMPLETE");
    // One that somebody has read is another matter.
    const read = request("/", { method: "POST", body: "{}" });
    await read.text();
    equal((await rejects(guarded.check(read), /./)).name, "TypeError");
  },

  async "an answer with a status that is none is the upstream's failure"({ guard }) {
    const guards = {
      lock: { key: ["client_ip"], lease: "1h" },
      circuit_breaker: { failures: 4, within: "1m", open_for: "1h" },
    };
    const guarded = await guard(all(guards));
    const ask = () => guarded.check(request("/"), { ip: "192.0.2.1" });
    for (const status of [600, 999, 199, 0]) {
      const decision = await admitted(ask);
      const odd = new Response("odd", { headers: { "x-odd": "1" } });
      Object.defineProperty(odd, "status", { value: status });
      const answer = await decision.complete(odd);
      equal([answer.status, answer.headers.get("x-odd")], [502, null], status);
      equal((await answer.json()).error.code, "ORIGIN_UNREACHABLE");
    }
    const refused = await admitted(ask, ({ response }) => response?.status === 503);
    equal((await refused.response.json()).error.code, "CIRCUIT_OPEN");
  },

  async "what cannot be an answer is completed by another one"({ guard }) {
    const guarded = await guard(all({ lock: { key: ["client_ip"], lease: "1h" } }));
    const ask = () => guarded.check(request("/"), { ip: "192.0.2.1" });
    const decision = await ask();
    const read = new Response("read");
    await read.text();
    await rejects(decision.complete(read), /./);
    equal((await ask()).allowed, false);
    equal(await (await decision.complete(new Response("page"))).text(), "page");
    await admitted(ask);
  },

  async "a reason that has a tab and a length that is said twice are no failure"({ guard }) {
    const guarded = await guard(all({ lock: { key: ["client_ip"], lease: "1h" } }));
    const ask = () => guarded.check(request("/"), { ip: "192.0.2.1" });
    const decision = await ask();
    const odd = new Response("ok", { headers: { "content-length": "2, 2" } });
    Object.defineProperty(odd, "statusText", { value: "all\tright" });
    equal(await (await decision.complete(odd)).text(), "ok");
    await admitted(ask);
  },

  async "what a WebSocket holds ends by its time"({ guard }) {
    const { result: guarded } = await quietly(() => guard(all({ lock: { key: ["client_ip"], lease: "1h" } }), { redis: null }));
    const ask = () => guarded.check(request("/"));
    const decision = await ask();
    // Of a runtime that has none of its own, as Deno's `upgradeWebSocket` gives it.
    const of = (pair) => new Response(null, { status: 101, webSocket: pair[0] });
    const plain = Object.defineProperty(new Response(null), "status", { value: 101 });
    const isOfWorkers = "WebSocketPair" in globalThis;
    const upgrade = isOfWorkers ? of(new WebSocketPair()) : plain;
    const answer = await decision.complete(upgrade);
    equal([answer.status, isOfWorkers ? answer.webSocket === upgrade.webSocket : answer === upgrade], [101, true]);
    // The memory is told at once what it is told.
    for (let turns = 0; turns < 10; turns += 1) await undefined;
    equal((await ask()).response?.status, 409);
  },

  async "nobody is rejected however many wait"({ guard }) {
    const limit = { quota: 1_000_000, window: "1d", key: ["header:x-id"], on_store_error: "allow" };
    const guarded = await guard(one(limit));
    const { fetch } = globalThis;
    const { timeout } = AbortSignal;
    const waiting = [];
    globalThis.fetch = () => new Promise((_, fail) => waiting.push(fail));
    // In Workers there are no more timers than that for one request, which this is.
    AbortSignal.timeout = () => new AbortController().signal;
    try {
      const asked = Array.from({ length: 10_050 }, (_, i) =>
        i % 2 ? guarded.limit("one", `${i}`) : guarded.check(request("/", { headers: { "x-id": `${i}` } })),
      );
      // Who finds no room does not wait.
      await Promise.all(asked.slice(10_000));
      equal(waiting.length, 10_000);
      const { result } = await quietly(() => {
        waiting.forEach((fail) => fail(new TypeError("gone")));
        return Promise.all(asked);
      });
      equal(result.filter(({ allowed, degraded }) => allowed && degraded).length, 10_050);
    } finally {
      globalThis.fetch = fetch;
      AbortSignal.timeout = timeout;
    }
  },

  async "who was forgotten is asked about again"({ guard }) {
    const guarded = await guard(all({ lock: { name: "job", key: ["client_ip"], lease: "1h" } }));
    const limiting = await guard(one({ quota: 5, window: "1d", key: ["header:x-id"] }));
    await limiting.limit("one", "a");
    const { fetch } = globalThis;
    const held = [];
    globalThis.fetch = (...of) => new Promise((resolve, reject) => held.push(() => fetch(...of).then(resolve, reject)));
    let asked;
    try {
      asked = [limiting.check(request("/", { headers: { "x-id": "a" } })), limiting.limit("one", "a"), guarded.lock("job", "192.0.2.1").catch((error) => error)];
      await eventually("all of them wait", async () => held.length === 3);
    } finally {
      globalThis.fetch = fetch;
    }
    // The thread stands still for so long, and what comes then finds them gone.
    const [checked, limited, lock] = await later(30_000, async () => {
      await limiting.limit("one", "b");
      held.forEach((go) => go());
      return Promise.all(asked);
    });
    equal([checked.allowed, limited.allowed, limited.source], [true, true, "store"]);
    equal([lock.name, lock.mayBeDone], ["StoreError", true]);
  },

  async "a body larger than what is read of it holds nobody up"({ guard }) {
    const guarded = await guard(one({ quota: 5, window: "1d", key: ["body:/id"] }));
    const body = JSON.stringify({ id: 1, more: "x".repeat(200_000) });
    const large = request("/", { method: "POST", body });
    equal((await guarded.check(large)).allowed, true);
    equal((await large.text()).length, body.length);
  },

  async "an answer with a field that is no text is not kept, and others are kept as they were sent"({ guard }) {
    const guarded = await guard(all({ idempotency: { key: ["client_ip"], required: true } }));
    const ask = (key) => guarded.check(request("/", { method: "POST", headers: { "idempotency-key": key } }));
    // As this runtime shows these bytes of an answer.
    const shown = (bytes) =>
      takesAnyText() ? new TextDecoder().decode(Uint8Array.from(bytes)) : String.fromCharCode(...bytes);
    const given = { text: [0x63, 0xc3, 0xa9, 0x21], euro: [0xe2, 0x82, 0xac], none: [0x63, 0xe9] };
    for (const [name, bytes] of Object.entries(given)) {
      const page = new Response("kept", { headers: { "x-odd": shown(bytes) } });
      await (await (await ask(name)).complete(page)).text();
      if (name === "none") continue;
      const again = await admitted(() => ask(name), ({ response }) => response.headers.has("idempotent-replayed"));
      equal([again.response.status, again.response.headers.get("x-odd")], [200, shown(bytes)], name);
      equal(again.headers.get("x-odd"), shown(bytes), name);
    }
    await eventually("it was carried out and is not kept", async () => {
      const { response } = await ask("none");
      return (await response.json()).error.code === "IDEMPOTENT_RESPONSE_NOT_KEPT";
    });
  },

  async "what a client broke off is no failure of the upstream"({ guard }) {
    const limit = { name: "failed", algorithm: "fixed_window", quota: 3, window: "1d", key: ["client_ip"], count: "failures" };
    const circuit_breaker = { failures: 2, within: "1m", open_for: "1h" };
    const guarded = await guard(all({ rate_limits: [limit], circuit_breaker, lock: { key: ["client_ip"], lease: "1h", wait: "8s" } }));
    const ask = () => guarded.check(request("/", { method: "POST" }));
    for (let i = 0; i < 5; i += 1) {
      // It waits until the one before is over.
      const decision = await ask();
      equal(decision.allowed, true);
      equal(decision.abandon(), undefined);
      // What is over is over.
      decision.abandon();
      equal((await decision.complete(new Response("no", { status: 502 }))).status, 502);
    }
    await eventually("all is given back", async () => {
      const decision = await ask();
      decision.abandon();
      return decision.allowed && decision.limits[0].remaining === 2;
    });
  },

  async "keys begin with what they are told to"({ guard }) {
    const policy = one({ quota: 1, window: "1d" });
    const [ours, theirs] = [await guard(policy), await guard(policy, { keyPrefix: "another" })];
    equal(
      [(await ours.check(request("/"))).allowed, (await theirs.check(request("/"))).allowed],
      [true, true],
    );
    equal((await (await guard(policy)).check(request("/"))).allowed, false);
  },

  async "the clock may be the instance's"({ guard }) {
    const guarded = await guard(one({ quota: 1, window: "1d" }), { clock: "host" });
    equal(
      [(await guarded.check(request("/"))).allowed, (await guarded.check(request("/"))).allowed],
      [true, false],
    );
  },

  async "without a store the memory counts, and says so once"({ createGuard }) {
    const { lines, result } = await quietly(async () => {
      const guarded = await createGuard({ policy: one({ quota: 2, window: "1d" }), redis: null });
      return [
        await guarded.check(request("/")),
        await guarded.check(request("/")),
        await guarded.check(request("/")),
      ];
    });
    equal(
      result.map(({ allowed, degraded }) => [allowed, degraded]),
      [
        [true, false],
        [true, false],
        [false, false],
      ],
    );
    equal(result[0].limits[0].source, "memory");
    equal(lines.length, 1);
    holds(JSON.parse(lines[0]).message.startsWith("no store is configured"), lines[0]);
  },

  async "without redis the variables of Upstash are read"({ createGuard, redis }) {
    const [url, token] = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];
    // Not every runtime has variables, but every one can be given some.
    const { env } = (globalThis.process ??= { env: {} });
    const set = (variables) => {
      for (const name of [url, token]) delete env[name];
      Object.assign(env, variables);
    };
    const made = async (variables) => {
      const before = Object.fromEntries(
        [url, token].filter((name) => env[name]).map((name) => [name, env[name]]),
      );
      set(variables);
      try {
        return await quietly(async () => {
          const guarded = await createGuard({
            policy: one({ quota: 9, window: "1d" }),
            keyPrefix: "variables",
          });
          return (await guarded.check(request("/"))).limits[0].source;
        });
      } finally {
        set(before);
      }
    };
    equal(await made({ [url]: redis.url, [token]: redis.token }), { lines: [], result: "store" });
    equal((await made({})).result, "memory");
    await rejects(made({ [url]: redis.url }), new RegExp(`^${token}: found nothing.*${url}`));
    await rejects(made({ [token]: "t" }), new RegExp(`^${url}: found nothing.*${token}`));
  },

  async "everything that is wrong with a policy and its settings is said at once"({ createGuard }) {
    const limit = { name: "one", algorithm: "fixed_window", quota: 1, window: "1d", key: ["client_ip"] };
    const routes = [
      { name: "a", rate_limits: [{ ...limit, burst: 2 }] },
      { name: "a", rate_limits: [{ ...limit, name: "two", key: [] }] },
    ];
    const error = await rejects(
      createGuard({ policy: { routes }, redis: { url: "example.com", token: "t" } }),
      /./,
    );
    const places = [
      "policy.routes[0].rate_limits[0].burst",
      "policy.routes[1].name",
      "policy.routes[1].rate_limits[0].key",
      "redis.url",
    ];
    equal(
      error.message.split("\n").map((line) => line.split(": found ")[0]),
      places,
    );
    await rejects(
      createGuard({ policy: { route: [] }, redis: null }),
      /^policy\.route: found unknown field `route`, expected one of/,
    );
    const settings = { redis: { url: "http://127.0.0.1:99999", token: "a b" }, replicas: 0, timeout: "soon", clock: "wall" };
    const several = await rejects(createGuard({ policy: {}, ...settings }), /./);
    equal(
      several.message.split("\n").map((line) => line.split(": found ")[0]).sort(),
      ["clock", "redis.token", "redis.url", "replicas", "timeout"],
    );
    for (const url of ["http://[::1", "http://%zz/", "http://a b/", "https://", "http://a.example:99999/x"])
      await rejects(createGuard({ policy: {}, redis: { url, token: "t" } }), /^redis\.url: found /);
    // Variables are there, whatever else is wrong.
    const keys = [{ alg: "HS256", secret: { env: "SECRET" } }];
    const jwt = { algorithms: ["HS256"], keys };
    const variables = { SECRET: "s".repeat(32) };
    for (const wrong of [{ replicas: 0 }, { replicas: "many" }])
      await rejects(createGuard({ policy: { jwt }, redis: null, variables, ...wrong }), /^replicas: found [^\n]*$/);
    await rejects(createGuard({ policy: "{", redis: null }), /^policy: found what cannot be read/);
    await rejects(
      createGuard({ policy: {}, redis: null, timeOut: "1s" }),
      /^timeOut: found unknown field `timeOut`, expected one of `redis`, `timeout`/,
    );
    await rejects(
      createGuard({ policy: {}, redis: null, timeout: "1 minute" }),
      /^timeout: found "1 minute", expected a duration/,
    );
    await rejects(
      createGuard({ policy: {}, redis: null, timeout: "11s" }),
      /^timeout: found 11s, expected at most 10s/,
    );
    await rejects(
      createGuard({ policy: {}, redis: null, replicas: 0 }),
      /^replicas: found `0`, expected 1 to 100000/,
    );
    await rejects(
      createGuard({ policy: {}, redis: { url: "https://x.example" } }),
      /^redis: found no `token`, expected one/,
    );
    await rejects(
      createGuard({ policy: {}, redis: { url: "https://x.example", token: "se\ncret" } }),
      /^redis\.token: found an unusable token \(not shown\)/,
    );
  },

  async "arguments of another type are TypeErrors"({ createGuard, guard }) {
    const guarded = await guard(one({ quota: 9, window: "1d", key: ["header:x-api-key"] }));
    const here = request("/");
    const wrong = [
      [createGuard(), /^options: found nothing, expected an object with a `policy`/],
      [createGuard({}), /^policy: found nothing, expected an object, or its JSON as a text/],
      [createGuard({ policy: [] }), /^policy: found an array/],
      [createGuard({ policy: 7 }), /^policy: found `7`/],
      [
        createGuard({ policy: { routes: () => [] }, redis: null }),
        /^routes: found a function, expected a value that JSON has/,
      ],
      [createGuard({ policy: {}, redis: null, replicas: NaN }), /^replicas: found `NaN`/],
      [guarded.check(), /^request: found nothing, expected a Request/],
      [guarded.check("https://app.example/"), /^request: found a string/],
      [guarded.check({ method: "GET", url: "/", headers: {} }), /^request: found an object/],
      [guarded.check(here, null), /^options: found `null`/],
      [guarded.check(here, { IP: "192.0.2.1" }), /^options: found `IP`, expected ip, waitUntil/],
      [guarded.check(here, { ip: 7 }), /^ip: found `7`, expected a text/],
      [guarded.check(here, { ip: "192.0.2.1, 192.0.2.2" }), /^ip: found a text that is no IP address/],
      [guarded.check(here, { waitUntil: {} }), /^waitUntil: found an object, expected a function/],
      [guarded.limit(), /^name: found nothing/],
      [guarded.limit("one"), /^key: found nothing, expected a text, or an array of texts/],
      [guarded.limit("one", 7), /^key: found `7`/],
      [guarded.limit("one", ["a", undefined]), /^key: found nothing/],
      [guarded.limit("one", "a", { cost: "2" }), /^cost: found a string, expected a number/],
      [guarded.limit("one", "a", { costs: 2 }), /^options: found `costs`, expected cost, waitUntil/],
    ];
    for (const [promise, message] of wrong) equal((await rejects(promise, message)).name, "TypeError");
    const decision = await guarded.check(here);
    for (const none of ["hello", { status: 200 }, undefined, { status: 200, headers: {}, body: null }]) {
      await rejects((async () => decision.apply(none))(), /^response: found (a string|an object|nothing), expected a Response/);
      await rejects(decision.complete(none), /^response: found (a string|an object|nothing), expected a Response/);
    }
  },

  async "what the policy does not have is a RangeError that says what it has"({ guard }) {
    const guarded = await guard(
      one({ quota: 9, window: "1d", key: ["const:x", "header:x-api-key", "client_ip"] }),
    );
    const wrong = [
      [guarded.limit("two", "a"), /^name: found `two`, expected a limit of the policy: `one`/],
      [
        guarded.limit("one", "a"),
        /^key: found 1 values, .* `one` that is no constant: header:x-api-key, client_ip \(an IP address\)/,
      ],
      [guarded.limit("one", ["a", "b", "c"]), /^key: found 3 values/],
      [guarded.limit("one", ["a", "b"]), /^key: found 2 values/],
      [
        guarded.limit("one", ["a", "192.0.2.1"], { cost: 0 }),
        /^cost: found `0`, expected a whole number from 1/,
      ],
      [guarded.limit("one", ["a", "192.0.2.1"], { cost: 1.5 }), /^cost: found `1.5`/],
      [guarded.limit("one", ["a", "192.0.2.1"], { cost: NaN }), /^cost: found `NaN`/],
      [
        guarded.limit("one", ["a", "192.0.2.1"], { cost: 1e9 + 1 }),
        /^cost: found `1000000001`, expected at most 1000000000/,
      ],
      [
        guarded.limit("one", ["a", "192.0.2.1"], { cost: 1e300 }),
        /^cost: found `\d+`, expected at most 1000000000/,
      ],
    ];
    for (const [promise, message] of wrong) equal((await rejects(promise, message)).name, "RangeError");
    // Nothing of that was counted, and the guard works as before.
    equal((await guarded.limit("one", ["a", "192.0.2.1"])).remaining, 8);
  },
};

/** With a store that fails: `guard` makes guards that use it. */
const FAILURES = {
  async "limits do what on_store_error says"(guard) {
    const guarded = await guard({ routes: ["allow", "deny", "local"].map(failing) });
    const allow = await guarded.check(request("/allow"));
    equal([allow.allowed, allow.degraded, allow.headers.get("x-tollgate-degraded")], [true, true, "allow"]);
    const { remaining, resetAfterMs, ruling, source, degraded } = allow.limits[0];
    equal([remaining, resetAfterMs, ruling, source, degraded], [null, null, "admitted", "allow", true]);
    const deny = await guarded.check(request("/deny"));
    equal([deny.allowed, deny.degraded, deny.response.status], [false, true, 503]);
    equal(
      [deny.response.headers.get("retry-after"), (await deny.response.json()).error.code],
      ["1", "RATE_LIMIT_UNAVAILABLE"],
    );
    equal(
      [deny.limits[0].ruling, deny.limits[0].retryAfterMs, deny.limits[0].remaining],
      ["unavailable", 1000, null],
    );
    const local = [];
    for (let i = 0; i < 3; i += 1) local.push(await guarded.check(request("/local")));
    equal(
      local.map(({ allowed, limits }) => [allowed, limits[0].source]),
      [
        [true, "local"],
        [true, "local"],
        [false, "local"],
      ],
    );
    equal([local[2].response.status, local[2].headers.get("x-tollgate-degraded")], [429, "local"]);
  },

  async "a logout that fails holds nobody up, though the answer was cloned"(guard) {
    const { jwk, signed } = await signer("ES256");
    const guarded = await guard({ jwt: { algorithms: ["ES256"], keys: [{ jwk }] }, routes: [{ name: "logout", revokes: "token" }] });
    const logout = await guarded.check(bearing(await signed(), "/logout"));
    equal(logout.allowed, true);
    const page = new Response(new ReadableStream());
    const copy = page.clone();
    const answer = await logout.complete(page);
    equal([answer.status, (await answer.json()).error.code], [503, "NOT_REVOKED"]);
    await copy.body.cancel();
  },

  async "what is done by name is known not to be"(guard) {
    const guarded = await guard(all({ lock: { name: "job", key: ["client_ip"], lease: "1h" } }));
    await rejects(guarded.lock("job", "192.0.2.1"), /(not done|not known whether this was done): /);
    const error = await guarded.lock("job", "192.0.2.1").catch((error) => error);
    equal([error.name, typeof error.mayBeDone], ["StoreError", "boolean"]);
  },

  async "limit does as well"(guard) {
    const guarded = await guard({ routes: ["allow", "deny", "local"].map(failing) });
    const of = async (name) => {
      const { allowed, ruling, source, degraded, retryAfterMs } = await guarded.limit(name, "a");
      return [allowed, ruling, source, degraded, retryAfterMs];
    };
    equal(await of("allow"), [true, "admitted", "allow", true, 0]);
    equal(await of("deny"), [false, "unavailable", "deny", true, 1000]);
    equal(await of("local"), [true, "admitted", "local", true, 0]);
  },

  async "each instance counts its share alone"(guard) {
    const guarded = await guard({ routes: [failing("local")] }, { replicas: 2 });
    equal(
      [(await guarded.check(request("/local"))).allowed, (await guarded.check(request("/local"))).allowed],
      [true, false],
    );
  },

  async "it is left alone after three failures"(guard) {
    const guarded = await guard({ routes: [failing("allow")] });
    for (let i = 0; i < 3; i += 1) equal((await guarded.check(request("/allow"))).degraded, true);
    const begun = Date.now();
    for (let i = 0; i < 20; i += 1) equal((await guarded.check(request("/allow"))).degraded, true);
    // Twenty that wait for a silent store would take four seconds.
    holds(Date.now() - begun < 1500, `twenty requests took ${Date.now() - begun} ms`);
  },
};

/** Asks until the answer is as it should be: what is told behind an answer takes its time. */
async function admitted(ask, holds = ({ allowed }) => allowed) {
  let decision;
  await eventually("the decision turns", async () => holds((decision = await ask())));
  return decision;
}

/** Whether a header field may be any text here; elsewhere each of its characters is a byte. */
function takesAnyText() {
  try {
    return new Headers([["x", "\u0100"]]).get("x") === "\u0100";
  } catch {
    return false;
  }
}

function base64url(bytes) {
  const text = btoa(String.fromCharCode(...bytes));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** A policy that asks everybody for a token, of keys that are fetched from `url`. */
function fetching(url) {
  return { jwt: { algorithms: Object.keys(ALGORITHMS), jwks: { url } }, default: { token: "required" } };
}

/** A document of a server that keeps them. */
class Document {
  constructor(url) {
    this.url = url;
  }

  /** Has it be what is answered from now on, in this way. */
  async put(text, answer = {}) {
    [this.text, this.answer] = [text, answer];
    const response = await fetch(`${this.url}?${new URLSearchParams(answer)}`, { method: "PUT", body: text });
    return Number(await response.text());
  }

  /** How often it was asked for. */
  asked() {
    return this.put(this.text, this.answer);
  }
}

/** A new key pair: the public key, and what signs claims. */
async function signer(alg, kid) {
  const { subtle } = crypto;
  const algorithm = ALGORITHMS[alg];
  const pair = await subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const { kty, crv, n, e, x, y } = await subtle.exportKey("jwk", pair.publicKey);
  const soon = () => ({ jti: crypto.randomUUID(), exp: Math.floor(Date.now() / 1000) + 3600 });
  const signed = async (claims = soon()) => {
    const parts = [{ alg, kid }, claims].map((part) => base64url(new TextEncoder().encode(JSON.stringify(part))));
    const input = parts.join(".");
    const made = await subtle.sign(algorithm, pair.privateKey, new TextEncoder().encode(input));
    return `${input}.${base64url(new Uint8Array(made))}`;
  };
  return { jwk: { kty, crv, n, e, x, y, alg, kid }, signed };
}

/** A promise that somebody else resolves. */
function deferred() {
  let resolve;
  const promise = new Promise((settle) => (resolve = settle));
  return { promise, resolve };
}

/** A set of their keys. */
function keys(signers) {
  return JSON.stringify({ keys: signers.map(({ jwk }) => jwk) });
}

function bearing(token, path = "/") {
  return request(path, { headers: { authorization: `Bearer ${token}` } });
}

/** Runs something with a clock that is so many milliseconds fast. */
async function later(ms, body) {
  const { now } = Date;
  Date.now = () => now.call(Date) + ms;
  try {
    return await body();
  } finally {
    Date.now = now;
  }
}

const ALGORITHMS = {
  RS256: {
    name: "RSASSA-PKCS1-v1_5",
    hash: "SHA-256",
    modulusLength: 2048,
    publicExponent: Uint8Array.from([1, 0, 1]),
  },
  ES256: { name: "ECDSA", hash: "SHA-256", namedCurve: "P-256" },
  EdDSA: { name: "Ed25519" },
};

/** A policy of one route with these guards. */
function all(guards) {
  return { routes: [{ name: "all", ...guards }] };
}

/** A policy of one route with one limit. */
function one(limit) {
  const rate_limits = [{ name: "one", algorithm: "fixed_window", key: ["client_ip"], ...limit }];
  return { routes: [{ name: "all", rate_limits }] };
}

/** A route of two requests a day, with what happens to them when the store fails. */
function failing(mode) {
  const limit = {
    name: mode,
    algorithm: "fixed_window",
    quota: 2,
    window: "1d",
    key: ["header:x-api-key"],
    on_store_error: mode,
  };
  return { name: mode, match: { path: `/${mode}` }, rate_limits: [limit] };
}

/** A guard with a limit of ten and one of one; `refused` sends a request that only the second refuses, the first time it is. */
async function twoLimits(guard, options) {
  const limit = { algorithm: "fixed_window", window: "1d" };
  const wide = { ...limit, name: "wide", quota: 10, key: ["header:x-wide"] };
  const narrow = { ...limit, name: "narrow", quota: 1, key: ["client_ip"] };
  const guarded = await guard({ routes: [{ name: "both", rate_limits: [wide, narrow] }] }, options);
  const send = (waitUntil) =>
    guarded.check(request("/", { headers: { "x-wide": "a" } }), { ip: "192.0.2.1", waitUntil });
  equal(
    (await send()).limits.map(({ remaining }) => remaining),
    [9, 0],
  );
  return { guarded, refused: send };
}

function request(target, init) {
  return new Request(new URL(target, "https://app.example/"), init);
}

/** Runs something, and keeps to itself what that writes to the log. */
async function quietly(body) {
  const lines = [];
  const { warn, error } = console;
  console.warn = console.error = (line) => lines.push(line);
  try {
    return { result: await body(), lines };
  } finally {
    Object.assign(console, { warn, error });
  }
}
