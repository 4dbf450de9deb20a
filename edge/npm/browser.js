// For everything that fetches what lies beside a module.

import init from "./core.js";
import { creator } from "./guard.js";

export { fromNode } from "./from-node.js";

export const createGuard = creator(
  () => init({ module_or_path: new URL("./core.wasm", import.meta.url) }),
  { shares: true },
);
