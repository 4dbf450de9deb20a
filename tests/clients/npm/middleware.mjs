// A middleware as Next.js runs it, and the guard in it.

import { createGuard } from "tollgate";

import { NextResponse } from "./next_server.mjs";

const guard = createGuard({
  timeout: "10s",
  policy: {
    routes: [
      {
        name: "api",
        match: { path: "/api/*" },
        rate_limits: [
          { name: "api-ip", algorithm: "sliding_window_log", quota: 3, window: "1h", key: ["client_ip"] },
        ],
      },
    ],
  },
});

export async function middleware(request, event) {
  const decision = await (
    await guard
  ).check(request, {
    ip: request.headers.get("x-real-ip"),
    waitUntil: (promise) => event.waitUntil(promise),
  });
  return decision.allowed ? decision.apply(NextResponse.next()) : decision.response;
}
