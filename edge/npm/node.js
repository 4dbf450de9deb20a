// For Node, Deno and Bun, which read wasm from the disk.

import { readFile } from "node:fs/promises";

import init from "./core.js";
import { creator } from "./guard.js";

export { fromNode } from "./from-node.js";

export const createGuard = creator(
  () => init({ module_or_path: readFile(new URL("./core.wasm", import.meta.url)) }),
  { shares: true },
);
