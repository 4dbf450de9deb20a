// Three readers of Node's: Express, and what most hand-written servers do, `new URL` and `url.parse`.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { parse } from "node:url";

const require = createRequire(process.argv[2] + "/");
const ports = process.argv.slice(3).map(Number);

const view = (path) => {
  if (path === "/api/health") return "health";
  if (path === "/auth/login") return "login";
  if (/^\/users\/[^/]+\/orders$/.test(path)) return "orders";
  return path === "/api" || path.startsWith("/api/") ? "api" : "none";
};
const plain = (read) => createServer((request, response) => {
  let answer = "none";
  try {
    answer = view(read(request.url));
  } catch {}
  response.end(answer);
});
const app = (express) => {
  const app = express();
  app.all("/api/health", (_, response) => response.send("health"));
  app.all("/auth/login", (_, response) => response.send("login"));
  app.all("/users/:id/orders", (_, response) => response.send("orders"));
  app.use("/api", (_, response) => response.send("api"));
  app.use((_, response) => response.send("none"));
  app.use((_error, _request, response, _next) => response.send("none"));
  return createServer(app);
};

[
  app(require("express")),
  app(require("express5")),
  plain((url) => new URL(url, "http://localhost").pathname),
  plain((url) => parse(url).pathname),
].forEach((server, index) => server.listen(ports[index], "127.0.0.1"));
