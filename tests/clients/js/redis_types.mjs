// What `@upstash/redis` promises about each type of value.

import { equal, holds, rejects } from "./checks.mjs";

/** Checks of one type of value each: `(redis, key)`. */
export const TYPES = {
  async strings(redis, key) {
    equal(await redis.set(key("a"), "one"), "OK");
    equal(await redis.get(key("a")), "one");
    equal(await redis.get(key("missing")), null);
    equal(await redis.set(key("a"), "two", { nx: true }), null);
    equal(await redis.set(key("a"), "two", { xx: true, get: true }), "one");
    equal(await redis.set(key("a"), "three", { ex: 100 }), "OK");
    equal(await redis.set(key("a"), "four", { keepTtl: true }), "OK");
    equal(await redis.ttl(key("a")), 100);
    equal(await redis.set(key("a"), "five", { pxat: Date.now() + 60_000 }), "OK");
    holds((await redis.pttl(key("a"))) > 50_000, "pxat sets the time to live");
    equal(await redis.getex(key("a"), { persist: true }), "five");
    equal(await redis.ttl(key("a")), -1);
    equal(await redis.getset(key("a"), "six"), "five");
    equal(await redis.getdel(key("a")), "six");
    equal(await redis.setex(key("b"), 50, "x"), "OK");
    equal(await redis.psetex(key("b"), 50_000, "xy"), "OK");
    equal(await redis.setnx(key("b"), "z"), 0);
    equal(await redis.append(key("b"), "z"), 3);
    equal(await redis.strlen(key("b")), 3);
    equal(await redis.setrange(key("b"), 1, "YZ!"), 4);
    equal(await redis.getrange(key("b"), 0, -1), "xYZ!");
    equal(await redis.mset({ [key("c")]: "1", [key("d")]: { two: 2 } }), "OK");
    equal(await redis.mget(key("c"), key("missing"), key("d")), [1, null, { two: 2 }]);
    equal(await redis.mget([key("d"), key("c")]), [{ two: 2 }, 1]);
    equal(await redis.msetnx({ [key("c")]: "9", [key("e")]: "9" }), 0);
    equal(await redis.exists(key("c"), key("d"), key("e")), 2);
  },

  async numbers(redis, key) {
    equal(await redis.incr(key("n")), 1);
    equal(await redis.incrby(key("n"), 41), 42);
    equal(await redis.decr(key("n")), 41);
    equal(await redis.decrby(key("n"), 50), -9);
    equal(await redis.get(key("n")), -9);
    equal(await redis.incrbyfloat(key("f"), 1.5), 1.5);
    equal(await redis.incrbyfloat(key("f"), 0.25), 1.75);
    equal(await redis.set(key("big"), "9007199254740993"), "OK");
    // A number that a double cannot hold stays a text.
    equal(await redis.get(key("big")), "9007199254740993");
    equal(await redis.set(key("float"), 1e21), "OK");
    equal(await redis.strlen(key("float")), "1e+21".length);
    equal(await redis.set(key("written"), "1.0"), "OK");
    equal(await redis.get(key("written")), "1.0");
    equal(await redis.set(key("seven"), "007"), "OK");
    equal(await redis.get(key("seven")), "007");
  },

  async bits(redis, key) {
    equal(await redis.setbit(key("a"), 7, 1), 0);
    equal(await redis.getbit(key("a"), 7), 1);
    equal(await redis.bitcount(key("a")), 1);
    equal(await redis.bitpos(key("a"), 1), 7);
    equal(await redis.setbit(key("b"), 6, 1), 0);
    equal(await redis.bitop("or", key("c"), key("a"), key("b")), 1);
    equal(await redis.bitcount(key("c"), 0, 0), 2);
    // By its name: the client's own builder does not work where it gathers commands by itself.
    const fields = ["SET", "u8", 0, 200, "INCRBY", "u8", 0, 100, "OVERFLOW", "SAT", "INCRBY", "u8", 0, 255];
    equal(await redis.exec(["BITFIELD", key("d"), ...fields]), [0, 44, 255]);
  },

  async hashes(redis, key) {
    equal(await redis.hset(key("a"), { name: "Ada", born: 1815, tags: ["x", "y"], none: "" }), 4);
    equal(await redis.hget(key("a"), "name"), "Ada");
    equal(await redis.hget(key("a"), "tags"), ["x", "y"]);
    equal(await redis.hget(key("a"), "nothing"), null);
    equal(await redis.hgetall(key("a")), { name: "Ada", born: 1815, tags: ["x", "y"], none: "" });
    equal(await redis.hgetall(key("missing")), null);
    equal(await redis.hmget(key("a"), "name", "nothing"), { name: "Ada", nothing: null });
    equal(await redis.hmset(key("b"), { one: 1, two: 2 }), "OK");
    equal(await redis.hincrby(key("b"), "one", 10), 11);
    equal(await redis.hincrbyfloat(key("b"), "two", 0.5), 2.5);
    equal((await redis.hkeys(key("b"))).sort(), ["one", "two"]);
    equal((await redis.hvals(key("b"))).sort(), [11, 2.5]);
    equal(await redis.hlen(key("b")), 2);
    equal(await redis.hexists(key("b"), "one"), 1);
    equal(await redis.hstrlen(key("b"), "one"), 2);
    equal(await redis.hsetnx(key("b"), "one", "x"), 0);
    holds(["one", "two"].includes(await redis.hrandfield(key("b"))), "a random field is one of them");
    equal(await redis.hrandfield(key("b"), 2, true), { one: 11, two: 2.5 });
    const [cursor, found] = await redis.hscan(key("b"), 0, { match: "o*" });
    equal([cursor, found], ["0", ["one", 11]]);
    equal(await redis.hdel(key("b"), "one", "two", "three"), 2);
  },

  async lists(redis, key) {
    equal(await redis.rpush(key("a"), "b", "c"), 2);
    equal(await redis.lpush(key("a"), "a"), 3);
    equal(await redis.rpushx(key("missing"), "x"), 0);
    equal(await redis.lpushx(key("missing"), "x"), 0);
    equal(await redis.lrange(key("a"), 0, -1), ["a", "b", "c"]);
    equal(await redis.lrange(key("missing"), 0, -1), []);
    equal(await redis.linsert(key("a"), "before", "b", "ab"), 4);
    equal(await redis.lindex(key("a"), 1), "ab");
    equal(await redis.lpos(key("a"), "c"), 3);
    equal(await redis.lset(key("a"), 0, { deep: [1, null, true] }), "OK");
    equal(await redis.lindex(key("a"), 0), { deep: [1, null, true] });
    equal(await redis.lrem(key("a"), 0, "ab"), 1);
    equal(await redis.ltrim(key("a"), 1, -1), "OK");
    equal(await redis.llen(key("a")), 2);
    equal(await redis.lmove(key("a"), key("b"), "left", "right"), "b");
    equal(await redis.rpop(key("a")), "c");
    equal(await redis.lpop(key("a")), null);
    equal(await redis.rpush(key("b"), "c", "d"), 3);
    equal(await redis.lpop(key("b"), 2), ["b", "c"]);
    equal(await redis.lmpop(2, [key("missing"), key("b")], "LEFT", 5), [key("b"), ["d"]]);
  },

  async sets(redis, key) {
    equal(await redis.sadd(key("a"), "x", "y", "z"), 3);
    equal(await redis.sadd(key("b"), "y", "z", "w"), 3);
    equal(await redis.scard(key("a")), 3);
    equal((await redis.smembers(key("a"))).sort(), ["x", "y", "z"]);
    equal(await redis.sismember(key("a"), "x"), 1);
    equal(await redis.smismember(key("a"), ["x", "w"]), [1, 0]);
    equal((await redis.sinter(key("a"), key("b"))).sort(), ["y", "z"]);
    equal(await redis.sdiff(key("a"), key("b")), ["x"]);
    equal((await redis.sunion(key("a"), key("b"))).sort(), ["w", "x", "y", "z"]);
    equal(await redis.sinterstore(key("c"), key("a"), key("b")), 2);
    equal(await redis.sdiffstore(key("c"), key("a"), key("b")), 1);
    equal(await redis.sunionstore(key("c"), key("a"), key("b")), 4);
    equal(await redis.sintercard([key("a"), key("b")]), 2);
    equal(await redis.smove(key("a"), key("b"), "x"), 1);
    equal(await redis.srem(key("b"), "x", "nothing"), 1);
    equal((await redis.srandmember(key("b"), 5)).length, 3);
    const [cursor, found] = await redis.sscan(key("b"), 0);
    equal([cursor, found.sort()], ["0", ["w", "y", "z"]]);
    equal((await redis.spop(key("b"), 9)).length, 3);
    equal(await redis.spop(key("b")), null);
  },

  async "sorted sets"(redis, key) {
    equal(await redis.zadd(key("a"), { score: 1, member: "one" }, { score: 2.5, member: "two" }), 2);
    equal(await redis.zadd(key("a"), { ch: true, gt: true }, { score: 5, member: "one" }), 1);
    equal(await redis.zadd(key("a"), { nx: true }, { score: 9, member: "one" }), 0);
    equal(await redis.zadd(key("a"), { incr: true }, { score: 1, member: "two" }), 3.5);
    equal(await redis.zscore(key("a"), "two"), 3.5);
    equal(await redis.zscore(key("a"), "nothing"), null);
    equal(await redis.zmscore(key("a"), ["one", "nothing"]), [5, null]);
    equal(await redis.zrange(key("a"), 0, -1), ["two", "one"]);
    equal(await redis.zrange(key("a"), 0, -1, { rev: true, withScores: true }), ["one", 5, "two", 3.5]);
    equal(await redis.zrange(key("a"), "(3.5", "+inf", { byScore: true }), ["one"]);
    equal(await redis.zrange(key("a"), "-inf", "+inf", { byScore: true, offset: 0, count: 1 }), ["two"]);
    equal(await redis.zincrby(key("a"), 0.5, "one"), 5.5);
    equal(await redis.zrank(key("a"), "one"), 1);
    equal(await redis.zrevrank(key("a"), "one"), 0);
    equal(await redis.zrank(key("a"), "nothing"), null);
    equal(await redis.zcount(key("a"), "-inf", "+inf"), 2);
    equal(await redis.zcard(key("a")), 2);
    equal(await redis.zadd(key("b"), { score: 10, member: "one" }), 1);
    equal(await redis.zunionstore(key("c"), 2, [key("a"), key("b")], { aggregate: "max" }), 2);
    equal(await redis.zinterstore(key("c"), 2, [key("a"), key("b")], { weights: [1, 2] }), 1);
    equal(await redis.zscore(key("c"), "one"), 25.5);
    equal(await redis.zunion(2, [key("a"), key("b")], { withScores: true }), ["two", 3.5, "one", 15.5]);
    equal(await redis.zdiffstore(key("c"), 2, key("a"), key("b")), 1);
    const [cursor, found] = await redis.zscan(key("a"), 0);
    equal([cursor, found], ["0", ["two", 3.5, "one", 5.5]]);
    equal(await redis.zadd(key("d"), ...["a", "b", "c"].map((member) => ({ score: 0, member }))), 3);
    equal(await redis.zlexcount(key("d"), "[b", "+"), 2);
    equal(await redis.zremrangebylex(key("d"), "[a", "[a"), 1);
    equal(await redis.zremrangebyrank(key("d"), 0, 0), 1);
    equal(await redis.zremrangebyscore(key("d"), 0, 0), 1);
    equal(await redis.zpopmin(key("a")), ["two", 3.5]);
    equal(await redis.zpopmax(key("a"), 2), ["one", 5.5]);
    equal(await redis.zrem(key("a"), "one"), 0);
  },

  async streams(redis, key) {
    const first = await redis.xadd(key("a"), "*", { name: "Ada", born: 1815 });
    holds(/^\d+-\d+$/.test(first), `an id such as 1526919030474-55, found ${first}`);
    const second = await redis.xadd(
      key("a"),
      "*",
      { name: "Grace" },
      { trim: { type: "MAXLEN", comparison: "=", threshold: 100 } },
    );
    equal(await redis.xadd(key("missing"), "*", { a: 1 }, { nomkStream: true }), null);
    equal(await redis.xlen(key("a")), 2);
    equal(await redis.xrange(key("a"), "-", "+"), {
      [first]: { name: "Ada", born: 1815 },
      [second]: { name: "Grace" },
    });
    equal(Object.keys(await redis.xrevrange(key("a"), "+", "-", 1)), [second]);
    equal(await redis.xread(key("a"), first), [[key("a"), [[second, ["name", "Grace"]]]]]);
    equal(await redis.xread(key("a"), second), null);
    equal(await redis.xgroup(key("a"), { type: "CREATE", group: "g", id: "0" }), "OK");
    equal(await redis.xgroup(key("a"), { type: "CREATECONSUMER", group: "g", consumer: "c" }), 1);
    const [[name, entries]] = await redis.xreadgroup("g", "c", key("a"), ">", { count: 5 });
    equal([name, entries.map(([id]) => id)], [key("a"), [first, second]]);
    equal(await redis.xack(key("a"), "g", first), 1);
    const pending = await redis.xpending(key("a"), "g", "-", "+", 10);
    equal(
      pending.map(([id, consumer, , times]) => [id, consumer, times]),
      [[second, "c", 1]],
    );
    equal(await redis.xclaim(key("a"), "g", "d", 0, second, { justId: true }), [second]);
    const [next, claimed] = await redis.xautoclaim(key("a"), "g", "c", 0, "0-0", { justId: true });
    equal([next, claimed], ["0-0", [second]]);
    const [group] = await redis.xinfo(key("a"), { type: "GROUPS" });
    equal(group.slice(0, 4), ["name", "g", "consumers", 2]);
    equal(await redis.xgroup(key("a"), { type: "DELCONSUMER", group: "g", consumer: "d" }), 0);
    equal(await redis.xgroup(key("a"), { type: "DESTROY", group: "g" }), 1);
    equal(await redis.xdel(key("a"), first), 1);
    equal(await redis.xtrim(key("a"), { strategy: "MAXLEN", exactness: "=", threshold: 0 }), 1);
  },

  async "places and estimates"(redis, key) {
    equal(
      await redis.geoadd(
        key("a"),
        { longitude: 13.361389, latitude: 38.115556, member: "Palermo" },
        { longitude: 15.087269, latitude: 37.502669, member: "Catania" },
      ),
      2,
    );
    equal(await redis.geodist(key("a"), "Palermo", "Catania", "KM"), 166.2742);
    equal(await redis.geohash(key("a"), "Palermo", "nowhere"), ["sqc8b49rny0", null]);
    const [place, nowhere] = await redis.geopos(key("a"), "Palermo", "nowhere");
    equal([place.lng.toFixed(4), place.lat.toFixed(4), nowhere], ["13.3614", "38.1156", undefined]);
    const found = await redis.geosearch(
      key("a"),
      { type: "FROMLONLAT", coordinate: { lon: 15, lat: 37 } },
      { type: "BYRADIUS", radius: 200, radiusType: "KM" },
      "ASC",
      { withDist: true },
    );
    equal(found, [
      { member: "Catania", dist: 56.4413 },
      { member: "Palermo", dist: 190.4424 },
    ]);
    equal(await redis.pfadd(key("b"), "a", "b", "c"), 1);
    equal(await redis.pfcount(key("b")), 3);
    equal(await redis.pfmerge(key("c"), key("b")), "OK");
    equal(await redis.pfcount(key("b"), key("c")), 3);
  },

  async keys(redis, key) {
    equal(await redis.mset({ [key("a")]: 1, [key("b")]: 2 }), "OK");
    equal(await redis.expire(key("a"), 100), 1);
    equal(await redis.expire(key("a"), 50, "GT"), 0);
    equal(await redis.pexpire(key("a"), 200_000), 1);
    equal(await redis.expireat(key("a"), Math.floor(Date.now() / 1000) + 60), 1);
    holds((await redis.ttl(key("a"))) > 50, "the time to live is near what was set");
    equal(await redis.persist(key("a")), 1);
    equal(await redis.ttl(key("missing")), -2);
    equal(await redis.type(key("a")), "string");
    equal(await redis.type(key("missing")), "none");
    equal(await redis.rename(key("a"), key("c")), "OK");
    equal(await redis.renamenx(key("c"), key("b")), 0);
    equal(await redis.copy(key("c"), key("d")), "COPIED");
    equal(await redis.touch(key("b"), key("c"), key("missing")), 2);
    holds((await redis.dbsize()) >= 3, "there are keys");
    holds((await redis.randomkey()) !== null, "there is a key");
    equal((await redis.keys(`${key("")}*`)).sort(), [key("b"), key("c"), key("d")]);
    const seen = new Set();
    let cursor = "0";
    do {
      const [next, part] = await redis.scan(cursor, { match: `${key("")}*`, count: 100, type: "string" });
      part.forEach((name) => seen.add(name));
      cursor = next;
    } while (cursor !== "0");
    equal([...seen].sort(), [key("b"), key("c"), key("d")]);
    equal(await redis.unlink(key("b"), key("c")), 2);
    equal(await redis.del(key("d"), key("missing")), 1);
  },

  async values(redis, key) {
    const values = {
      umlauts: "Füße, naïve, Ελλάδα, 日本語",
      emoji: "👩‍👩‍👧‍👦🏳️‍🌈 \u{1F9EA}",
      controls: "line\nline\r\n\ttab \u0000 nul \u001f \u007f",
      quotes: `"double" 'single' \\back\\ /slash/ %41 +&?#=`,
      separators: "\u2028 and \u2029 and \ufeff and \ufffd",
      empty: "",
      spaces: "  in front and behind  ",
      "looks encoded": "SGVsbG8=",
      "looks like a status": "OK",
      "looks like an error": "ERR no",
      object: { text: "ä", list: [1, "2", null, { deep: true }], "": 0 },
      array: [1, "two", [3, ["four"]], { five: 5 }],
      true: true,
      false: false,
      zero: 0,
      negative: -1.25,
      tiny: 5e-7,
      long: "0123456789abcdef".repeat(16_384),
      "long and wide": "ü€😀".repeat(20_000),
    };
    for (const [name, value] of Object.entries(values)) {
      equal(await redis.set(key(name), value), "OK");
      equal(await redis.get(key(name)), value);
    }
    const names = Object.keys(values);
    equal(await redis.mget(names.map(key)), Object.values(values));
    equal(await redis.echo("née 😀"), "née 😀");
    equal(await redis.set(key("ключ 🔑\n"), "x"), "OK");
    equal(await redis.keys(`${key("ключ")}*`), [key("ключ 🔑\n")]);
  },

  async scripts(redis, key) {
    equal(await redis.eval("return {KEYS[1], ARGV[1], 1, {'nested', false, 3.9}}", [key("a")], ["ü"]), [
      key("a"),
      "ü",
      1,
      ["nested", null, 3],
    ]);
    equal(await redis.eval("return redis.call('SET', KEYS[1], ARGV[1])", [key("a")], ["by script"]), "OK");
    equal(await redis.eval("return {ok = 'FINE'}", [], []), "FINE");
    equal(await redis.evalRo("return redis.call('GET', KEYS[1])", [key("a")], []), "by script");
    const body = `return {KEYS[1], '${key("body")}'}`;
    const sha = await redis.scriptLoad(body);
    equal(sha.length, 40);
    equal(await redis.scriptExists(sha, "0".repeat(40)), [1, 0]);
    equal(await redis.evalsha(sha, [key("a")], []), [key("a"), key("body")]);
    equal(await redis.evalshaRo(sha, [key("b")], []), [key("b"), key("body")]);
    const script = redis.createScript(`return ARGV[1] .. '${key("script")}'`);
    equal(await script.exec([], ["x"]), `x${key("script")}`);
    equal(await script.exec([], ["y"]), `y${key("script")}`);
    const readonly = redis.createScript(`return redis.call('GET', KEYS[1]) -- ${key("")}`, {
      readonly: true,
    });
    equal(await readonly.exec([key("a")], []), "by script");
    await rejects(redis.evalsha("f".repeat(40), [], []), /NOSCRIPT/);
    await rejects(redis.eval("return redis.error_reply('MINE own error')", [], []), /MINE own error/);
    await rejects(redis.eval("return redis.call('HGET', KEYS[1], 'f')", [key("a")], []), /WRONGTYPE/);
    await rejects(redis.eval("this is not Lua", [], []), /ERR Error compiling script/);
  },

  // A flag of Upstash's own, which Redis refuses; its digest must stay the client's.
  async "scripts with Upstash's flag"(redis, key) {
    const body = `#!lua flags=allow-key-locking\n-- ${key("")}\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])`;
    const script = redis.createScript(body);
    equal(await script.exec([key("a")], [2]), 2);
    equal(await script.exec([key("a")], [3]), 5);
    equal(await redis.eval(body, [key("a")], [1]), 6);
    const loaded = `${body} + 1`;
    const sha = await redis.scriptLoad(loaded);
    equal(sha, await digest(loaded));
    equal(await redis.scriptExists(sha), [1]);
    equal(await redis.evalsha(sha, [key("a")], [1]), 8);
    equal(
      await redis.evalRo(
        "#!lua flags=no-writes,allow-key-locking\nreturn redis.call('GET', KEYS[1])",
        [key("a")],
        [],
      ),
      7,
    );
  },

  async functions(redis, key) {
    const library = `lib${key("").replace(/\W/g, "")}`;
    const code = `#!lua name=${library}
      redis.register_function('${library}_set', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
      redis.register_function{function_name='${library}_get', flags={'no-writes'},
        callback=function(keys) return redis.call('GET', keys[1]) end}`;
    equal(await redis.functions.load({ code, replace: true }), library);
    equal(await redis.functions.call(`${library}_set`, [key("a")], ["v"]), "OK");
    equal(await redis.functions.callRo(`${library}_get`, [key("a")]), "v");
    const [listed] = await redis.functions.list({ libraryName: library });
    equal(listed.libraryName, library);
    equal(listed.functions.map((each) => each.name).sort(), [`${library}_get`, `${library}_set`]);
    equal(await redis.functions.delete(library), "OK");
    await rejects(redis.functions.call(`${library}_set`, [key("a")], ["v"]), /Function not found/);
  },

  async errors(redis, key) {
    equal(await redis.set(key("a"), "text"), "OK");
    await rejects(
      redis.lpush(key("a"), 1),
      /WRONGTYPE Operation against a key holding the wrong kind of value/,
    );
    await rejects(redis.incr(key("a")), /ERR value is not an integer or out of range/);
    await rejects(redis.set(key("a"), "x", { ex: -1 }), /ERR invalid expire time in 'set' command/);
    await rejects(redis.hset(key("a"), {}), /ERR wrong number of arguments for 'hset' command/);
    await rejects(redis.rename(key("missing"), key("b")), /ERR no such key/);
    await rejects(redis.json.get(key("a"), "$"), /ERR /);
    equal(await redis.get(key("a")), "text");
  },

  async pipelines(redis, key) {
    const pipeline = redis.pipeline();
    equal(
      await pipeline
        .set(key("a"), 1)
        .incr(key("a"))
        .hset(key("b"), { x: "y" })
        .hgetall(key("b"))
        .get(key("no"))
        .exec(),
      ["OK", 2, 1, { x: "y" }, null],
    );
    // Without braces: in a Cluster these go everywhere, and answers come in the order of the commands.
    const spread = (i) => key(`m${i}`).replace(/[{}]/g, "");
    const many = redis.pipeline();
    for (let i = 0; i < 500; i += 1) many.set(spread(i), i).get(spread(i));
    const answers = await many.exec();
    equal(answers, Array.from({ length: 500 }, (_, i) => ["OK", i]).flat());
    const wrong = () => redis.pipeline().set(key("c"), "text").lpush(key("c"), 1).get(key("c"));
    await rejects(wrong().exec(), /Command 2 \[ lpush \] failed: WRONGTYPE/);
    const kept = await wrong().exec({ keepErrors: true });
    equal(
      kept.map(({ error }) => error?.split(" ")[0]),
      [undefined, "WRONGTYPE", undefined],
    );
    equal(kept[2].result, "text");
  },

  async transactions(redis, key) {
    equal(await redis.multi().set(key("a"), "1").incrby(key("a"), 4).get(key("a")).exec(), ["OK", 5, 5]);
    const failing = await redis
      .multi()
      .set(key("b"), "text")
      .incr(key("b"))
      .append(key("b"), "!")
      .exec({ keepErrors: true });
    holds(/not an integer/.test(failing[1].error), `the second of three fails: ${JSON.stringify(failing)}`);
    equal([failing[0].result, failing[2].result], ["OK", 5]);
    equal(await redis.get(key("b")), "text!");
    await rejects(
      redis.multi().set(key("c"), "x").hset(key("c"), {}).exec(),
      /wrong number of arguments|EXECABORT/,
    );
    equal(await redis.get(key("c")), null);
    // Nobody gets in between: each transaction sees its own increments only.
    const transactions = Array.from({ length: 20 }, () => redis.multi().incr(key("d")).incr(key("d")).exec());
    const pairs = await Promise.all(transactions);
    holds(
      pairs.every(([first, second]) => second === first + 1),
      `pairs of neighbours: ${JSON.stringify(pairs)}`,
    );
    equal(await redis.get(key("d")), 40);
  },
};

/** Fields of a hash with a life of their own. */
export async function expiringFields(redis, key) {
  equal(await redis.hset(key("a"), { x: 1, y: 2 }), 2);
  equal(await redis.hexpire(key("a"), ["x", "nothing"], 100), [1, -2]);
  equal(await redis.httl(key("a"), ["x", "y"]), [100, -1]);
  equal(await redis.hpersist(key("a"), "x"), [1]);
  equal(await redis.hpexpire(key("a"), "x", 100_000), [1]);
  holds((await redis.hpttl(key("a"), "x"))[0] > 90_000, "the field's time to live is near what was set");
}

/** Commands that came with Redis 8. */
export async function commandsOf8(redis, key) {
  equal(await redis.hsetex(key("a"), { expiration: { ex: 100 } }, { x: "1", y: "2" }), 1);
  equal(await redis.hgetex(key("a"), { persist: true }, "x"), { x: 1 });
  equal(await redis.hgetdel(key("a"), "x", "y"), { x: 1, y: 2 });
  const id = await redis.xadd(key("s"), "*", { a: 1 });
  equal(await redis.xgroup(key("s"), { type: "CREATE", group: "g", id: "0" }), "OK");
  equal((await redis.xreadgroup("g", "c", key("s"), ">")).length, 1);
  equal(await redis.xackdel(key("s"), "g", "delref", id), [1]);
  equal(await redis.xdelex(key("s"), "keepref", id), [-1]);
}

async function digest(text) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-1", new TextEncoder().encode(text)));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
