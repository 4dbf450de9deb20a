// What `@upstash/redis` promises about asking: requests shared and given up, tokens, subscriptions, many at once.

import { equal, eventually, holds, rejects } from "./checks.mjs";

/** Checks of how clients ask: `({ client, key, Redis, url })`. */
export const ASKING = {
  async "the answer is what the server says when nothing is deserialised"({ client, key }) {
    const redis = client({ automaticDeserialization: false });
    equal(await redis.set(key("a"), { x: 1 }), "OK");
    equal(await redis.get(key("a")), '{"x":1}');
    equal(await redis.zadd(key("z"), { score: 1.5, member: "m" }), 1);
    equal(await redis.zscore(key("z"), "m"), "1.5");
    equal(await redis.time().then((time) => time.length), 2);
  },

  async "commands of one tick share a request, in order"({ client, key }) {
    const redis = client();
    const before = redis.pipelineCounter;
    const writes = Array.from({ length: 200 }, (_, i) => redis.incr(key("n")).then((n) => equal(n, i + 1)));
    await Promise.all(writes);
    equal(redis.pipelineCounter, before + 1);
    const [read, failed, other] = await Promise.allSettled([
      redis.get(key("n")),
      redis.lpush(key("n"), 1),
      redis.incr(key("n")),
    ]);
    equal([read.status, failed.status, other.value], ["fulfilled", "rejected", 201]);
    holds(/Command failed: WRONGTYPE/.test(failed.reason.message), failed.reason.message);
  },

  async "any command can be sent by its name"({ client, key }) {
    const redis = client();
    equal(await redis.exec(["SET", key("a"), 7, "EX", 100]), "OK");
    equal(await redis.exec(["object", "encoding", key("a")]), "int");
    equal(await redis.exec(["GeT", key("a")]), 7);
    equal(await redis.exec(["ZADD", key("z"), 1.5, "m"]), 1);
    equal(await redis.exec(["ZRANGE", key("z"), 0, -1, "WITHSCORES"]), ["m", 1.5]);
    await rejects(redis.exec(["NOSUCHCOMMAND", key("a")]), /NOSUCHCOMMAND/);
  },

  async "the connection's own commands"({ client }) {
    const redis = client();
    equal(await redis.ping(), "PONG");
    equal(await redis.ping(["hello"]), "hello");
    const [seconds, microseconds] = await redis.time();
    holds(Math.abs(seconds - Date.now() / 1000) < 60 && microseconds < 1e6, "the server's clock");
    equal(await redis.clientSetinfo("LIB-NAME", "check"), "OK");
    equal(await redis.clientSetinfo("LIB-VER", "1.0"), "OK");
  },

  async "bytes that are no text arrive as replacement characters"({ client, key }) {
    for (const redis of [client(), client({ responseEncoding: false })]) {
      equal(await redis.eval("return '\\255a\\254'", [], []), "\ufffda\ufffd");
      equal(
        await redis.eval(
          "redis.call('SET', KEYS[1], '\\200'); return redis.call('STRLEN', KEYS[1])",
          [key("a")],
          [],
        ),
        1,
      );
      equal(await redis.mget(key("a")), ["\ufffd"]);
      equal(await redis.get(key("a")), "\ufffd");
    }
  },

  async "what REST cannot do is refused by name"({ client, key }) {
    const redis = client();
    for (const command of [
      ["BLPOP", key("a"), 1],
      ["MULTI"],
      ["WATCH", key("a")],
      ["SUBSCRIBE", "c"],
      ["SELECT", 5],
    ]) {
      const error = await rejects(redis.exec(command), /^(ERR|NOPERM) /);
      holds(
        error.message.toUpperCase().includes(command[0]),
        `the error names the command: ${error.message}`,
      );
    }
    equal(await redis.ping(), "PONG");
  },

  async "a wrong token is refused"({ Redis, url, key }) {
    const redis = new Redis({ url, token: "wrong", retry: false });
    await rejects(redis.set(key("a"), "x"), /WRONGPASS|Unauthorized/);
    await rejects(redis.pipeline().get(key("a")).exec(), /WRONGPASS|Unauthorized/);
    await rejects(redis.multi().get(key("a")).exec(), /WRONGPASS|Unauthorized/);
  },

  async "a request can be given up"({ client, key }) {
    const signal = AbortSignal.abort("given up");
    const redis = client({ signal, enableAutoPipelining: false, responseEncoding: false });
    equal(await redis.set(key("a"), "x"), "given up");
    equal(await client().get(key("a")), null);
  },

  async "every answer has a new sync token, which the next request brings"({ client, key }) {
    const redis = client();
    equal(redis.readYourWritesSyncToken, "");
    const seen = new Set();
    const ask = [
      () => redis.set(key("a"), 1),
      () => redis.get(key("a")),
      () => redis.pipeline().incr(key("a")).exec(),
      () => redis.multi().incr(key("a")).exec(),
      () => redis.eval("return 1", [], []),
    ];
    for (const send of ask) {
      await send();
      holds(redis.readYourWritesSyncToken, "there is a token");
      seen.add(redis.readYourWritesSyncToken);
    }
    equal(seen.size, ask.length);
    // Another client may take it over, and nonsense does no harm.
    const other = client();
    other.readYourWritesSyncToken = redis.readYourWritesSyncToken;
    equal(await other.get(key("a")), 3);
    other.readYourWritesSyncToken = "nonsense";
    equal(await other.get(key("a")), 3);
    const without = client({ readYourWrites: false });
    equal(await without.get(key("a")), 3);
    equal(without.readYourWritesSyncToken, "");
  },

  async "messages of channels reach subscribers"({ client, key }) {
    const redis = client();
    const channels = [key("one"), key("two")];
    const subscriber = redis.subscribe(channels);
    const got = [];
    const confirmed = [];
    const errors = [];
    subscriber.on("subscribe", (count) => confirmed.push(count));
    subscriber.on("message", ({ channel, message }) => got.push([channel, message]));
    subscriber.on("error", (error) => errors.push(error.message));
    const second = [];
    subscriber.on(`message:${channels[1]}`, ({ message }) => second.push(message));
    await eventually("both subscriptions are confirmed", () => confirmed.length === 2 || errors.length > 0);
    equal(errors, []);
    equal(confirmed, [1, 1]);
    const messages = ["plain", "with, commas, in it", { an: "object" }, 42, "ü😀", ""];
    for (const message of messages) equal(await redis.publish(channels[0], message), 1);
    equal(await redis.publish(channels[1], "other"), 1);
    await eventually("all messages are there", () => got.length === messages.length + 1);
    equal(
      got.filter(([channel]) => channel === channels[0]).map(([, message]) => message),
      messages,
    );
    equal(second, ["other"]);
    await subscriber.unsubscribe([channels[0]]);
    await eventually("nobody listens any more", async () => (await redis.publish(channels[0], "x")) === 0);
    equal(subscriber.getSubscribedChannels(), [channels[1]]);
    await subscriber.unsubscribe();
    await eventually("nobody listens on the other", async () => (await redis.publish(channels[1], "x")) === 0);
  },

  async "messages of patterns reach subscribers"({ client, key }) {
    const redis = client();
    const pattern = key("*");
    const subscriber = redis.psubscribe([pattern]);
    const got = [];
    const errors = [];
    let confirmed = 0;
    subscriber.on("psubscribe", () => (confirmed += 1));
    subscriber.on("pmessage", (message) => got.push(message));
    subscriber.on("error", (error) => errors.push(error.message));
    await eventually("the subscription is confirmed", () => confirmed === 1 || errors.length > 0);
    equal(errors, []);
    // A node of a Cluster counts its own receivers only, and a pattern has no slot that would tell where to listen.
    const inCluster = (await redis.exec(["INFO", "cluster"])).includes("cluster_enabled:1");
    const reaches = async (channel, message, receivers) =>
      (await redis.publish(channel, message)) === receivers || inCluster;
    holds(await reaches(key("a"), { n: 1 }, 1), "one listens");
    holds(await reaches(key("b"), "2", 1), "one listens");
    holds(await reaches("elsewhere", "3", 0), "nobody listens");
    await eventually("both messages are there", () => got.length === 2);
    equal(got, [
      { pattern, channel: key("a"), message: { n: 1 } },
      { pattern, channel: key("b"), message: 2 },
    ]);
    await subscriber.unsubscribe();
    await eventually("nobody listens any more", () => reaches(key("a"), "x", 0));
  },

  async "many clients at once"({ client, key }) {
    const clients = Array.from({ length: 20 }, () => client());
    await Promise.all(
      clients.map(async (redis, index) => {
        for (let i = 0; i < 10; i += 1) {
          const [count, mine] = await Promise.all([
            redis.incr(key("n")),
            redis.set(key(`${index}:${i}`), [index, i]),
          ]);
          holds(count > 0 && mine === "OK", "each gets its own answer");
          equal(await redis.get(key(`${index}:${i}`)), [index, i]);
        }
      }),
    );
    equal(await clients[0].get(key("n")), 200);
  },
};
