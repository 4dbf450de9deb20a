// What runs in Vercel's edge runtime: the middleware, and at `/suite` the suite. `SETTINGS` is a global of the sandbox.

import { createGuard, fromNode } from "tollgate";

import { Checks } from "./checks.mjs";
import { middleware } from "./middleware.mjs";
import { run } from "./suite.mjs";

addEventListener("fetch", (event) => event.respondWith(answer(event)));

async function answer(event) {
  if (new URL(event.request.url).pathname !== "/suite") {
    return middleware(event.request, event);
  }
  const checks = new Checks();
  await run(checks, { createGuard, fromNode, settings: JSON.parse(SETTINGS) });
  return new Response(checks.report());
}
