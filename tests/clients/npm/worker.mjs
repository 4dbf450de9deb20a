// Runs the suite in workerd; the binding `SETTINGS` says where the stores are.

import { createGuard } from "tollgate";

import { Checks } from "./checks.mjs";
import { run } from "./suite.mjs";

export default {
  async fetch(_request, { SETTINGS }) {
    const checks = new Checks();
    await run(checks, { createGuard, settings: JSON.parse(SETTINGS) });
    return new Response(checks.report());
  },
};
