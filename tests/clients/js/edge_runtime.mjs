// Serves a bundle in Vercel's edge runtime, with that platform's rule: no code from texts, no wasm from bytes.
//
// node edge_runtime.mjs BUNDLE WASM PORT

import { readFile } from "node:fs/promises";

import { EdgeRuntime, runServer } from "edge-runtime";

const [bundle, wasm, port] = process.argv.slice(2);
const module = await WebAssembly.compile(await readFile(wasm));
const { SETTINGS, UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN } = process.env;
const runtime = new EdgeRuntime({
  initialCode: await readFile(bundle, "utf8"),
  codeGeneration: { strings: false, wasm: false },
  extend(context) {
    context.SETTINGS = SETTINGS;
    context.process = { env: { UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN } };
    // `import … from "….wasm?module"`, as the platform's bundler resolves it.
    context.require = () => module;
    return context;
  },
});
await runServer({ runtime, host: "127.0.0.1", port: Number(port) });
