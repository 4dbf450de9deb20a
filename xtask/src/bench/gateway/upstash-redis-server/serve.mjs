// What the package's own server.js does, on loopback only instead of on every interface.
import { serve } from "@hono/node-server";
import { createApp } from "@humanwhocodes/upstash-redis-server";

const { URS_TOKEN: token, REDIS_URL: redisUrl, PORT: port } = process.env;
serve({ fetch: createApp({ token, redisUrl }).fetch, hostname: "127.0.0.1", port: Number(port) });
