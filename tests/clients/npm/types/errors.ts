// Mistakes that the types find. The compiler reports each `@ts-expect-error` below which there is none.

import { createGuard, fromNode, type Decision, type Policy, type RateLimit } from "tollgate";

// @ts-expect-error a policy is required
await createGuard({});
// @ts-expect-error so is a token
await createGuard({ policy: {}, redis: { url: "https://example.upstash.io" } });
// @ts-expect-error the option is `timeout`
await createGuard({ policy: {}, timeOut: "1s" });
// @ts-expect-error a time has a unit
await createGuard({ policy: {}, timeout: "500" });
// @ts-expect-error and is no number
await createGuard({ policy: {}, timeout: 500 });

// @ts-expect-error the field is `routes`
export const route: Policy = { route: [] };
// @ts-expect-error paths begin with a slash
export const path: Policy = { routes: [{ name: "a", match: { path: "api" } }] };

const limit: RateLimit = { name: "a", algorithm: "gcra", quota: 1, window: "1m", key: ["client_ip"] };
// @ts-expect-error a key is a list
export const key: RateLimit = { ...limit, key: "client_ip" };
// @ts-expect-error of parts that there are
export const part: RateLimit = { ...limit, key: ["ip"] };
// @ts-expect-error there is no such algorithm
export const algorithm: RateLimit = { ...limit, algorithm: "token_bucket" };
// @ts-expect-error nor such a mode
export const mode: RateLimit = { ...limit, on_store_error: "fail" };

const guard = await createGuard({ policy: {} });
// @ts-expect-error a request is required
await guard.check();
// @ts-expect-error its URL alone does not do
await guard.check("https://app.example/");
// @ts-expect-error an address is a text
await guard.check(new Request("https://app.example/"), { ip: 7 });
// @ts-expect-error whom it is about is required
await guard.limit("a");
// @ts-expect-error and a text
await guard.limit("a", 7);
// @ts-expect-error the option is `cost`
await guard.limit("a", "b", { rate: 2 });

declare const decision: Decision;
// @ts-expect-error an admission has no response
export const response: Response = decision.response;
// @ts-expect-error nothing can be assigned
decision.allowed = true;
// @ts-expect-error a refusal is complete
await decision.complete(new Response());
// @ts-expect-error there is nothing to abandon
decision.abandon();
// @ts-expect-error that is no request of Node's
fromNode("/path");
// @ts-expect-error a lease is required
export const lock: Policy = { routes: [{ name: "a", lock: { key: ["client_ip"] } }] };
// @ts-expect-error one of them at a time
await guard.revoke({ token: "a", jti: "b" });
// @ts-expect-error a lease is a time
await guard.lock("a", "b", { lease: 7 });
// @ts-expect-error a lock that is not held has no fence
export const fence: number = (await guard.lock("a", "b")).fence;
