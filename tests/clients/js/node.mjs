// Runs the checks in Node: `node node.mjs redis|ratelimit`, with the gateway in the environment.

import { Redis } from "@upstash/redis";

import { Checks } from "./checks.mjs";

const { GATEWAY_URL: url, GATEWAY_TOKEN: token, REDIS_VERSION } = process.env;
const { run } = await import(`./${process.argv[2]}.mjs`);
const checks = new Checks();
await run(checks, { Redis, url, token, version: REDIS_VERSION.split(".").map(Number) });
console.log(checks.report());
// Not left to the event loop: a subscription that nobody ended would keep it going.
process.exit(checks.failures.length === 0 ? 0 : 1);
