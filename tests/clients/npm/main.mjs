// Runs the suite in Node, Deno or Bun; `SETTINGS` in the environment says where the stores are.

import { createGuard, fromNode } from "tollgate";

import { Checks } from "./checks.mjs";
import { run } from "./suite.mjs";

const { env, exit } = globalThis.process;
const checks = new Checks();
await run(checks, { createGuard, fromNode, settings: JSON.parse(env.SETTINGS), shares: true });
console.log(checks.report());
exit(checks.failures.length === 0 ? 0 : 1);
