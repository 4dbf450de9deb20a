// A Worker with a guard; at `/suite` it runs the suite instead. The binding `SETTINGS` says where the stores are.

import { createGuard, fromNode } from "tollgate";

import { Checks } from "./checks.mjs";
import { run } from "./suite.mjs";

const policy = {
  routes: [
    {
      name: "all",
      rate_limits: [{ name: "crowd", algorithm: "gcra", quota: 40, window: "1d", key: ["client_ip"] }],
    },
  ],
};
let guard;

export default {
  async fetch(request, { SETTINGS }, context) {
    const settings = JSON.parse(SETTINGS);
    if (new URL(request.url).pathname === "/suite") {
      const checks = new Checks();
      await run(checks, { createGuard, fromNode, settings });
      return new Response(checks.report());
    }
    // Variables come with requests, so the first one makes the guard, and all others wait for the same.
    guard ??= createGuard({ policy, redis: { url: settings.url, token: settings.token }, timeout: "10s" });
    const waitUntil = (promise) => context.waitUntil(promise);
    const decision = await (
      await guard
    ).check(request, { ip: request.headers.get("cf-connecting-ip"), waitUntil });
    return decision.allowed ? decision.apply(new Response("hello")) : decision.response;
  },
};
