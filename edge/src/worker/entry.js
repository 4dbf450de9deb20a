// What the runtime loads: each request is the core's. Whatever it panics at, the next call finds it started anew.

import { Core } from "./index.js";

export default {
  fetch: (request, env, context) => Core.fetch(request, env, context),
};
