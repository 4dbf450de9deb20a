// What `@upstash/ratelimit` promises its users, asked of the gateway. Runs in Node and in workerd.

import { MultiRegionRatelimit, Ratelimit } from "@upstash/ratelimit";

import { equal, eventually, holds, sleep } from "./checks.mjs";

/** `Redis` is the class of `@upstash/redis`. */
export async function run(checks, { Redis, url, token }) {
  const client = () => new Redis({ url, token, retry: false });
  for (const [algorithm, limiter] of Object.entries(ALGORITHMS)) {
    for (const [name, body] of Object.entries(ALL)) {
      await checks.check(`${name} (${algorithm})`, () => {
        // The braces keep the keys of one limiter together in a Cluster.
        const prefix = `{${name}:${algorithm}}`;
        // Without a cache of its own every call asks the gateway.
        const of = (quota, options = {}) =>
          new Ratelimit({
            redis: client(),
            limiter: limiter(quota),
            prefix,
            ephemeralCache: false,
            ...options,
          });
        return body(of, { client, algorithm });
      });
    }
  }
  // These wait for time to pass, so they wait together.
  await Promise.all(
    Object.entries(OTHERS).map(([name, body]) =>
      checks.check(name, () => body({ client, prefix: `{${name}}` })),
    ),
  );
}

/** The three ways of counting: `quota` requests, and none of them comes back while a check runs. */
const ALGORITHMS = {
  "fixed window": (quota) => Ratelimit.fixedWindow(quota, "30 d"),
  "sliding window": (quota) => Ratelimit.slidingWindow(quota, "30 d"),
  "token bucket": (quota) => Ratelimit.tokenBucket(quota, "30 d", quota),
};

/** Checks of every way of counting: `(of, { client, algorithm })`, where `of(quota)` is a limiter. */
const ALL = {
  async "as many pass as may"(of) {
    const limiter = of(5);
    for (let left = 4; left >= 0; left -= 1) {
      const { success, limit, remaining, reset, pending } = await limiter.limit("a");
      equal([success, limit, remaining], [true, 5, left]);
      holds(reset > Date.now(), "more becomes available later");
      await pending;
    }
    const refused = await limiter.limit("a");
    equal([refused.success, refused.limit, refused.remaining], [false, 5, 0]);
    equal((await limiter.limit("b")).success, true);
  },

  async "exactly as many pass when all ask at once"(of) {
    const limiters = Array.from({ length: 4 }, () => of(25));
    const asked = Array.from({ length: 80 }, (_, i) => limiters[i % limiters.length].limit("crowd"));
    const answers = await Promise.all(asked);
    equal(answers.filter(({ success }) => success).length, 25);
    const remaining = answers.filter(({ success }) => success).map((answer) => answer.remaining);
    equal(
      remaining.sort((a, b) => a - b),
      Array.from({ length: 25 }, (_, i) => i),
    );
  },

  async "a request may cost more than one"(of, { algorithm }) {
    const limiter = of(10);
    equal((await limiter.limit("a", { rate: 4 })).remaining, 6);
    equal((await limiter.limit("a", { rate: 6 })).remaining, 0);
    equal((await limiter.limit("a", { rate: 1 })).success, false);
    if (algorithm !== "fixed window") {
      // What is given back can be used again; a fixed window has counted what it refused.
      await limiter.limit("a", { rate: -3 });
      equal((await limiter.limit("a", { rate: 3 })).success, true);
    }
  },

  async "what remains can be asked and restored"(of) {
    const limiter = of(3);
    equal((await limiter.getRemaining("a")).remaining, 3);
    await limiter.limit("a");
    await limiter.limit("a");
    const { remaining, limit } = await limiter.getRemaining("a");
    equal([remaining, limit], [1, 3]);
    await limiter.resetUsedTokens("a");
    equal((await limiter.getRemaining("a")).remaining, 3);
    equal((await limiter.limit("a")).remaining, 2);
  },

  async "the limit can be changed while it is in use"(of) {
    const limiter = of(2, { dynamicLimits: true });
    equal((await limiter.limit("a")).limit, 2);
    await limiter.setDynamicLimit({ limit: 7 });
    equal((await limiter.getDynamicLimit()).dynamicLimit, 7);
    equal((await limiter.limit("b")).limit, 7);
    await limiter.setDynamicLimit({ limit: false });
    equal((await limiter.getDynamicLimit()).dynamicLimit, null);
    equal((await limiter.limit("c")).limit, 2);
  },

  async "scripts that the server forgot are sent again"(of, { client }) {
    const limiter = of(50);
    for (let used = 1; used <= 4; used += 1) {
      equal((await limiter.limit("a")).remaining, 50 - used);
      equal(await client().scriptFlush(), "OK");
    }
    const answers = await Promise.all(Array.from({ length: 20 }, () => limiter.limit("a")));
    equal(Math.min(...answers.map(({ remaining }) => remaining)), 26);
  },

  async "who was refused is remembered without asking"(of) {
    const limiter = of(1, { ephemeralCache: new Map() });
    equal((await limiter.limit("a")).success, true);
    equal((await limiter.limit("a")).reason, undefined);
    const { success, reason } = await limiter.limit("a");
    equal([success, reason], [false, "cacheBlock"]);
  },

  async "identifiers may be any text"(of) {
    const limiter = of(1);
    for (const identifier of ["203.0.113.7", "ü 😀", "a:b*c?[d]", "{tag}x", " ", '"quoted"']) {
      equal((await limiter.limit(identifier)).success, true);
      equal((await limiter.limit(identifier)).success, false);
    }
  },
};

/** Checks of their own: `({ client, prefix })`. */
const OTHERS = {
  async "a fixed window turns"({ client, prefix }) {
    const limiter = new Ratelimit({
      redis: client(),
      limiter: Ratelimit.fixedWindow(2, "1 s"),
      prefix,
      ephemeralCache: false,
    });
    await nextWindow(1000);
    equal(await successes(limiter, 3), 2);
    const { success, reset } = await limiter.limit("a");
    holds(!success && reset - Date.now() <= 1000, "refused until the window turns");
    await nextWindow(1000);
    equal(await successes(limiter, 3), 2);
  },

  async "a sliding window slides"({ client, prefix }) {
    const limiter = new Ratelimit({
      redis: client(),
      limiter: Ratelimit.slidingWindow(10, "1 s"),
      prefix,
      ephemeralCache: false,
    });
    await nextWindow(1000);
    equal(await successes(limiter, 12), 10);
    await nextWindow(1000);
    await sleep(500);
    // About half of the last window still counts.
    const passed = await successes(limiter, 12);
    holds(passed >= 4 && passed <= 9, `${passed} of 12 passed in the middle of the next window`);
  },

  async "a bucket is filled again"({ client, prefix }) {
    const limiter = new Ratelimit({
      redis: client(),
      limiter: Ratelimit.tokenBucket(3, "1 s", 5),
      prefix,
      ephemeralCache: false,
    });
    equal(await successes(limiter, 6), 5);
    const { reset } = await limiter.limit("a");
    await sleep(reset - Date.now() + 20);
    equal(await successes(limiter, 5), 3);
  },

  async "a refused request can wait"({ client, prefix }) {
    const limiter = new Ratelimit({ redis: client(), limiter: Ratelimit.fixedWindow(1, "1 s"), prefix });
    await nextWindow(1000);
    equal((await limiter.limit("a")).success, true);
    equal((await limiter.blockUntilReady("a", 3000)).success, true);
    await nextWindow(1000);
    await limiter.limit("b");
    equal((await limiter.blockUntilReady("b", 50)).success, false);
  },

  async "a cached fixed window counts ahead"({ client, prefix }) {
    const redis = client();
    const of = () =>
      new Ratelimit({
        redis,
        limiter: Ratelimit.cachedFixedWindow(5, "30 d"),
        prefix,
        ephemeralCache: new Map(),
      });
    const limiter = of();
    for (let left = 4; left >= 0; left -= 1) {
      const { success, remaining, pending } = await limiter.limit("a");
      equal([success, remaining], [true, left]);
      await pending;
    }
    equal((await limiter.limit("a")).success, false);
    // What it counted ahead has reached the server.
    equal((await of().getRemaining("a")).remaining, 0);
    equal((await of().limit("a")).success, false);
  },

  async "the limiter for many regions works with one"({ client, prefix }) {
    for (const algorithm of ["fixedWindow", "slidingWindow"]) {
      const limiter = new MultiRegionRatelimit({
        redis: [client()],
        limiter: MultiRegionRatelimit[algorithm](4, "30 d"),
        prefix: `${prefix}:${algorithm}`,
        ephemeralCache: false,
      });
      const answers = [];
      for (let i = 0; i < 6; i += 1) {
        const { success, pending } = await limiter.limit("a");
        await pending;
        answers.push(success);
      }
      equal(answers, [true, true, true, true, false, false]);
      equal((await limiter.getRemaining("a")).remaining, 0);
    }
  },

  async "who is on the deny list is refused"({ client, prefix }) {
    const redis = client();
    // The list of addresses that the client would fetch from elsewhere is switched off as its documentation says.
    await redis.set(`${prefix}:ipDenyListStatus`, "disabled");
    await redis.sadd(`${prefix}:denyList:all`, "198.51.100.9", "bad user");
    const limiter = new Ratelimit({
      redis,
      limiter: Ratelimit.fixedWindow(9, "30 d"),
      prefix,
      enableProtection: true,
    });
    equal((await limiter.limit("a", { ip: "198.51.100.1", userAgent: "good" })).success, true);
    const { success, reason, deniedValue } = await limiter.limit("a", { ip: "198.51.100.9" });
    equal([success, reason, deniedValue], [false, "denyList", "198.51.100.9"]);
    equal((await limiter.limit("bad user")).reason, "denyList");
  },

  async "analytics are kept"({ client, prefix }) {
    const redis = client();
    const limiter = new Ratelimit({
      redis,
      limiter: Ratelimit.fixedWindow(2, "30 d"),
      prefix,
      analytics: true,
      ephemeralCache: false,
    });
    for (let i = 0; i < 3; i += 1) await (await limiter.limit("a")).pending;
    await eventually("the events are there", async () => (await redis.keys(`${prefix}:events:*`)).length > 0);
    const [table] = await redis.keys(`${prefix}:events:*`);
    const rows = await redis.zrange(table, 0, -1, { withScores: true });
    const counts = rows.filter((_, i) => i % 2 === 1);
    equal(counts.sort(), [1, 2]);
  },
};

/** How many of this many requests pass, one after the other. */
async function successes(limiter, requests) {
  let passed = 0;
  for (let i = 0; i < requests; i += 1) passed += Number((await limiter.limit("a")).success);
  return passed;
}

/** Waits for the beginning of the next window, so that it does not turn in the middle of what follows. */
async function nextWindow(milliseconds) {
  await sleep(milliseconds - (Date.now() % milliseconds) + 5);
}
