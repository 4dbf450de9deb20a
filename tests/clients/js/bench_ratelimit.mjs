// A Worker that guards its origin as `@upstash/ratelimit` tells its users to: a limiter for each limit, made once.
// `LIMITS` is how many; `AT_ONCE` asks all of them together instead of one after the other.

import { Ratelimit } from "@upstash/ratelimit";
import { Redis } from "@upstash/redis/cloudflare";

let limiters;

export default {
  async fetch(request, env) {
    limiters ??= Array.from({ length: Number(env.LIMITS) }, (_, number) => limiter(env, number));
    const address = request.headers.get("cf-connecting-ip") ?? "unknown";
    const results = [];
    if (env.AT_ONCE) {
      results.push(...(await Promise.all(limiters.map((limiter) => limiter.limit(address)))));
    } else {
      for (const limiter of limiters) {
        results.push(await limiter.limit(address));
      }
    }
    const tightest = results.reduce((one, other) => (other.remaining < one.remaining ? other : one));
    const refused = results.find((result) => !result.success);
    if (refused) {
      return new Response("too many requests", { status: 429, headers: fields(refused) });
    }
    const { pathname, search } = new URL(request.url);
    const answer = await fetch(new Request(env.ORIGIN_URL + pathname + search, request));
    const response = new Response(answer.body, answer);
    for (const [name, value] of Object.entries(fields(tightest))) {
      response.headers.set(name, value);
    }
    return response;
  },
};

function limiter({ UPSTASH_REDIS_REST_URL: url, UPSTASH_REDIS_REST_TOKEN: token }, number) {
  return new Ratelimit({
    redis: new Redis({ url, token }),
    limiter: Ratelimit.fixedWindow(300_000_000, "1 h"),
    prefix: `bench-${number}`,
  });
}

function fields({ limit, remaining, reset }) {
  return {
    "x-ratelimit-limit": String(limit),
    "x-ratelimit-remaining": String(remaining),
    "x-ratelimit-reset": String(Math.ceil(reset / 1000)),
  };
}
