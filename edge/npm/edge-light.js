// For Vercel's edge runtime, which compiles wasm when a function is deployed.

import init from "./core.js";
import module from "./core.wasm?module";
import { creator } from "./guard.js";

export { fromNode } from "./from-node.js";

export const createGuard = creator(() => init({ module_or_path: module }), { shares: false });
