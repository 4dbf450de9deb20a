// For workerd, which compiles wasm when a Worker is deployed.

import { initSync } from "./core.js";
import module from "./core.wasm";
import { creator } from "./guard.js";

export { fromNode } from "./from-node.js";

// At once, because what one request has begun must not be what another one waits for.
export const createGuard = creator(() => initSync({ module }), { shares: false });
