// Runs the checks in workerd: `GET /redis` or `GET /ratelimit`, with the gateway in the bindings.

import { Redis } from "@upstash/redis/cloudflare";

import { Checks } from "./checks.mjs";
import * as ratelimit from "./ratelimit.mjs";
import * as redis from "./redis.mjs";

export default {
  async fetch(request, { GATEWAY_URL: url, GATEWAY_TOKEN: token, REDIS_VERSION }) {
    const suite = { "/redis": redis, "/ratelimit": ratelimit }[new URL(request.url).pathname];
    if (!suite) {
      return new Response("ready");
    }
    const checks = new Checks();
    await suite.run(checks, { Redis, url, token, version: REDIS_VERSION.split(".").map(Number) });
    return new Response(checks.report());
  },
};
