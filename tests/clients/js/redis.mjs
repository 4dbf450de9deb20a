// What `@upstash/redis` promises its users, asked of the gateway. Runs in Node and in workerd, each with the package's
// own entry for that runtime.

import { ASKING } from "./redis_asking.mjs";
import { TYPES, commandsOf8, expiringFields } from "./redis_types.mjs";

/**
 * `Redis` is the client's class, `version` what the server behind the gateway is, such as `[8, 2]`.
 */
export async function run(checks, { Redis, url, token, version }) {
  const client = (options = {}) => new Redis({ url, token, retry: false, ...options });

  // Every type of value through every way of asking and of encoding answers.
  const ways = {
    default: client(),
    "not encoded": client({ responseEncoding: false }),
    "one request each": client({ enableAutoPipelining: false }),
    "one request each, not encoded": client({ enableAutoPipelining: false, responseEncoding: false }),
  };
  for (const [way, redis] of Object.entries(ways)) {
    for (const [name, body] of Object.entries(TYPES)) {
      await checks.check(`${name} (${way})`, () => body(redis, keys(`${name}:${way}`)));
    }
    if (atLeast(version, [7, 4])) {
      await checks.check(`fields that expire (${way})`, () => expiringFields(redis, keys(`expiring:${way}`)));
    }
    if (atLeast(version, [8, 0])) {
      await checks.check(`commands of 8 (${way})`, () => commandsOf8(redis, keys(`of8:${way}`)));
    }
  }
  if (!atLeast(version, [8, 0])) {
    checks.note(`not on ${version.join(".")}: fields that expire, commands of 8`);
  }
  for (const [name, body] of Object.entries(ASKING)) {
    await checks.check(name, () => body({ client, key: keys(name), Redis, url }));
  }
}

/** Names of keys that no other check uses. The part in braces keeps those of one check together in a Cluster. */
function keys(of) {
  return (name) => `{${of}}:${name}`;
}

function atLeast([major, minor], [wantedMajor, wantedMinor]) {
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}
