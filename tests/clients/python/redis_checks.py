"""What `upstash-redis` promises its users, asked of the gateway, which is in the environment."""

import asyncio
import hashlib
import os
import threading
import time

from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

from checks import Checks, equal, rejects

URL = os.environ["GATEWAY_URL"]
TOKEN = os.environ["GATEWAY_TOKEN"]
VERSION = tuple(int(part) for part in os.environ["REDIS_VERSION"].split(".")[:2])


def main():
    checks = Checks()
    loop = asyncio.new_event_loop()
    ways = {
        "default": client(),
        "not encoded": client(rest_encoding=None),
        "asyncio": Waiting(AsyncRedis(URL, TOKEN, rest_retries=0), loop),
    }
    for way, redis in ways.items():
        for body in TYPES:
            checks.check(f"{body.__name__} ({way})", body, redis, keys(f"{body.__name__}:{way}"))
        if VERSION >= (8, 0):
            checks.check(f"commands of 8 ({way})", commands_of_8, redis, keys(f"of8:{way}"))
    if VERSION < (8, 0):
        checks.note(f"not on {os.environ['REDIS_VERSION']}: commands of 8")
    for body in ASKING:
        checks.check(body.__name__, body, keys(body.__name__))
    checks.check("many_at_once", lambda: loop.run_until_complete(many_at_once(keys("many"))))
    checks.conclude()


def client(token=TOKEN, **options):
    return Redis(URL, token, rest_retries=0, **options)


def keys(of):
    """Names of keys that no other check uses. The part in braces keeps those of one check together in a Cluster."""
    return lambda name: f"{{{of}}}:{name}"


class Waiting:
    """The asyncio client behind the face of the other one: waits for whatever a method returns."""

    def __init__(self, inner, loop):
        self.inner, self.loop = inner, loop

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found):
            return Waiting(found, self.loop)

        def call(*args, **kwargs):
            value = found(*args, **kwargs)
            if asyncio.iscoroutine(value):
                return self.loop.run_until_complete(value)
            # A pipeline returns itself until it is executed.
            return self if value is self.inner else Waiting(value, self.loop)

        return call


def strings(redis, key):
    equal(redis.set(key("a"), "one"), True)
    equal(redis.get(key("a")), "one")
    equal(redis.get(key("missing")), None)
    equal(redis.set(key("a"), "two", nx=True), False)
    equal(redis.set(key("a"), "two", get=True), "one")
    equal(redis.set(key("a"), "three", ex=100), True)
    equal(redis.ttl(key("a")), 100)
    equal(redis.set(key("a"), "four", keepttl=True), True)
    equal(redis.getex(key("a"), persist=True), "four")
    equal(redis.ttl(key("a")), -1)
    equal(redis.getset(key("a"), "five"), "four")
    equal(redis.getdel(key("a")), "five")
    equal(redis.setex(key("b"), 50, "x"), True)
    equal(redis.psetex(key("b"), 50_000, "xy"), True)
    equal(redis.setnx(key("b"), "z"), False)
    equal(redis.append(key("b"), "z"), 3)
    equal(redis.strlen(key("b")), 3)
    equal(redis.setrange(key("b"), 1, "YZ!"), 4)
    equal(redis.getrange(key("b"), 0, -1), "xYZ!")
    equal(redis.mset({key("c"): "1", key("d"): {"two": 2}}), True)
    equal(redis.mget(key("c"), key("missing"), key("d")), ["1", None, '{"two": 2}'])
    equal(redis.msetnx({key("c"): "9", key("e"): "9"}), False)
    equal(redis.exists(key("c"), key("d"), key("e")), 2)


def numbers(redis, key):
    equal(redis.incr(key("n")), 1)
    equal(redis.incrby(key("n"), 41), 42)
    equal(redis.decrby(key("n"), 50), -8)
    equal(redis.decr(key("n")), -9)
    equal(redis.incrbyfloat(key("f"), 1.5), 1.5)
    equal(redis.incrbyfloat(key("f"), 0.25), 1.75)
    # A bare number arrives as it was written.
    for written in (2**53 + 1, -(2**63), 1.0, 1e21, 0.1):
        equal(redis.set(key("written"), written), True)
        equal(redis.get(key("written")), str(written))
    equal(redis.set(key("big"), 2**63 - 2), True)
    equal(redis.incr(key("big")), 2**63 - 1)


def hashes(redis, key):
    equal(redis.hset(key("a"), values={"name": "Ada", "born": 1815, "none": ""}), 3)
    equal(redis.hget(key("a"), "name"), "Ada")
    equal(redis.hget(key("a"), "nothing"), None)
    equal(redis.hgetall(key("a")), {"name": "Ada", "born": "1815", "none": ""})
    equal(redis.hgetall(key("missing")), {})
    equal(redis.hmget(key("a"), "name", "nothing"), ["Ada", None])
    equal(redis.hincrby(key("a"), "born", 10), 1825)
    equal(redis.hincrbyfloat(key("a"), "born", 0.5), 1825.5)
    equal(sorted(redis.hkeys(key("a"))), ["born", "name", "none"])
    equal(sorted(redis.hvals(key("a"))), ["", "1825.5", "Ada"])
    equal(redis.hlen(key("a")), 3)
    equal(redis.hexists(key("a"), "name"), True)
    equal(redis.hstrlen(key("a"), "name"), 3)
    equal(redis.hsetnx(key("a"), "name", "x"), False)
    equal(redis.hrandfield(key("a"), 9, withvalues=True), {"name": "Ada", "born": "1825.5", "none": ""})
    equal(redis.hscan(key("a"), 0, "na*"), (0, {"name": "Ada"}))
    equal(redis.hdel(key("a"), "name", "nothing"), 1)


def lists(redis, key):
    equal(redis.rpush(key("a"), "b", "c"), 2)
    equal(redis.lpush(key("a"), "a"), 3)
    equal(redis.rpushx(key("missing"), "x"), 0)
    equal(redis.lrange(key("a"), 0, -1), ["a", "b", "c"])
    equal(redis.lrange(key("missing"), 0, -1), [])
    equal(redis.linsert(key("a"), "BEFORE", "b", "ab"), 4)
    equal(redis.lindex(key("a"), 1), "ab")
    equal(redis.lpos(key("a"), "c"), 3)
    equal(redis.lset(key("a"), 0, "A"), True)
    equal(redis.lrem(key("a"), 0, "ab"), 1)
    equal(redis.ltrim(key("a"), 1, -1), "OK")
    equal(redis.llen(key("a")), 2)
    equal(redis.lmove(key("a"), key("b"), "LEFT", "RIGHT"), "b")
    equal(redis.rpop(key("a")), "c")
    equal(redis.lpop(key("a")), None)
    equal(redis.lpop(key("b"), 2), ["b"])


def sets(redis, key):
    equal(redis.sadd(key("a"), "x", "y", "z"), 3)
    equal(redis.sadd(key("b"), "y", "z", "w"), 3)
    equal(redis.scard(key("a")), 3)
    equal(sorted(redis.smembers(key("a"))), ["x", "y", "z"])
    equal(redis.sismember(key("a"), "x"), True)
    equal(redis.smismember(key("a"), "x", "w"), [True, False])
    equal(sorted(redis.sinter(key("a"), key("b"))), ["y", "z"])
    equal(redis.sdiff(key("a"), key("b")), ["x"])
    equal(sorted(redis.sunion(key("a"), key("b"))), ["w", "x", "y", "z"])
    equal(redis.sunionstore(key("c"), key("a"), key("b")), 4)
    equal(redis.smove(key("a"), key("b"), "x"), True)
    equal(redis.srem(key("b"), "x", "nothing"), 1)
    equal(sorted(redis.srandmember(key("b"), 5)), ["w", "y", "z"])
    cursor, found = redis.sscan(key("b"), 0)
    equal((cursor, sorted(found)), (0, ["w", "y", "z"]))
    equal(len(redis.spop(key("b"), 9)), 3)
    equal(redis.spop(key("b")), None)


def sorted_sets(redis, key):
    equal(redis.zadd(key("a"), {"one": 1, "two": 2.5}), 2)
    equal(redis.zadd(key("a"), {"one": 5}, ch=True, gt=True), 1)
    equal(redis.zadd(key("a"), {"two": 1}, incr=True), 3.5)
    equal(redis.zscore(key("a"), "two"), 3.5)
    equal(redis.zscore(key("a"), "nothing"), None)
    equal(redis.zmscore(key("a"), ["one", "nothing"]), [5.0, None])
    equal(redis.zrange(key("a"), 0, -1), ["two", "one"])
    equal(redis.zrange(key("a"), 0, -1, rev=True, withscores=True), [("one", 5.0), ("two", 3.5)])
    equal(redis.zrange(key("a"), "(3.5", "+inf", sortby="BYSCORE"), ["one"])
    equal(redis.zincrby(key("a"), 0.5, "one"), 5.5)
    equal(redis.zrank(key("a"), "one"), 1)
    equal(redis.zrevrank(key("a"), "nothing"), None)
    equal(redis.zcount(key("a"), "-inf", "+inf"), 2)
    equal(redis.zcard(key("a")), 2)
    equal(redis.zadd(key("b"), {"one": 10}), 1)
    equal(redis.zunionstore(key("c"), [key("a"), key("b")], aggregate="MAX"), 2)
    equal(redis.zunion([key("a"), key("b")], withscores=True), [("two", 3.5), ("one", 15.5)])
    equal(redis.zinter([key("a"), key("b")], withscores=True), [("one", 15.5)])
    equal(redis.zdiff([key("a"), key("b")]), ["two"])
    equal(redis.zscan(key("a"), 0), (0, [("two", 3.5), ("one", 5.5)]))
    equal(redis.zrangebyscore(key("a"), "-inf", 4), ["two"])
    equal(redis.zremrangebyrank(key("c"), 0, 0), 1)
    equal(redis.zpopmin(key("a")), [("two", 3.5)])
    equal(redis.zpopmax(key("a"), 2), [("one", 5.5)])
    equal(redis.zadd(key("inf"), {"below": float("-1e308"), "above": 1e308}), 2)
    equal(redis.zscore(key("inf"), "above"), 1e308)


def streams(redis, key):
    first = redis.xadd(key("a"), "*", {"name": "Ada", "born": 1815})
    second = redis.xadd(key("a"), "*", {"name": "Grace"}, maxlen=100)
    equal(redis.xlen(key("a")), 2)
    entries = [[first, ["name", "Ada", "born", "1815"]], [second, ["name", "Grace"]]]
    equal(redis.xrange(key("a"), "-", "+"), entries)
    equal(redis.xrevrange(key("a"), "+", "-", count=1), entries[1:])
    equal(redis.xread({key("a"): first}), [[key("a"), entries[1:]]])
    equal(redis.xread({key("a"): second}), [])
    equal(redis.xgroup_create(key("a"), "g", "0"), "OK")
    equal(redis.xreadgroup("g", "c", {key("a"): ">"}, count=5), [[key("a"), entries]])
    equal(redis.xack(key("a"), "g", first), 1)
    equal(redis.xpending(key("a"), "g"), [1, second, second, [["c", "1"]]])
    equal(redis.xclaim(key("a"), "g", "d", 0, second), entries[1:])
    next_id, claimed = redis.xautoclaim(key("a"), "g", "c", 0, "0-0")[:2]
    equal((next_id, claimed), ("0-0", entries[1:]))
    equal(redis.xinfo_groups(key("a"))[0][:4], ["name", "g", "consumers", 2])
    equal(redis.xgroup_destroy(key("a"), "g"), 1)
    equal(redis.xdel(key("a"), first), 1)
    equal(redis.xtrim(key("a"), maxlen=0, approximate=False), 1)


def places_bits_and_estimates(redis, key):
    equal(redis.geoadd(key("g"), (13.361389, 38.115556, "Palermo"), (15.087269, 37.502669, "Catania")), 2)
    equal(redis.geodist(key("g"), "Palermo", "Catania", "KM"), 166.2742)
    equal(redis.geohash(key("g"), "Palermo", "nowhere"), ["sqc8b49rny0", None])
    place, nowhere = redis.geopos(key("g"), "Palermo", "nowhere")
    equal(([round(each, 4) for each in place], nowhere), ([13.3614, 38.1156], None))
    found = redis.geosearch(
        key("g"), longitude=15, latitude=37, unit="KM", radius=200, order="ASC", withdist=True
    )
    equal([(each.member, each.distance) for each in found], [("Catania", 56.4413), ("Palermo", 190.4424)])
    equal(redis.setbit(key("b"), 7, 1), 0)
    equal(redis.getbit(key("b"), 7), 1)
    equal(redis.bitcount(key("b")), 1)
    equal(redis.bitfield(key("f")).set("u8", 0, 200).incrby("u8", 0, 100).execute(), [0, 44])
    equal(redis.pfadd(key("p"), "a", "b", "c"), True)
    equal(redis.pfcount(key("p")), 3)


def names_of_keys(redis, key):
    equal(redis.mset({key("a"): "1", key("b"): "2"}), True)
    equal(redis.expire(key("a"), 100), True)
    equal(redis.pexpire(key("a"), 200_000), True)
    equal(redis.expireat(key("a"), int(time.time()) + 60), True)
    equal(redis.persist(key("a")), True)
    equal(redis.ttl(key("missing")), -2)
    equal(redis.type(key("a")), "string")
    equal(redis.rename(key("a"), key("c")), True)
    equal(redis.renamenx(key("c"), key("b")), False)
    equal(redis.copy(key("c"), key("d")), True)
    equal(redis.touch(key("b"), key("c"), key("missing")), 2)
    equal(sorted(redis.keys(key("*"))), [key("b"), key("c"), key("d")])
    seen, cursor = set(), 0
    while True:
        cursor, part = redis.scan(cursor, match=key("*"), count=100, type="string")
        seen.update(part)
        if cursor == 0:
            break
    equal(sorted(seen), [key("b"), key("c"), key("d")])
    equal(redis.unlink(key("b"), key("c")), 2)
    equal(redis.delete(key("d"), key("missing")), 1)


def values(redis, key):
    texts = {
        "umlauts": "Füße, naïve, Ελλάδα, 日本語",
        "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 🧪",
        "controls": "line\nline\r\n\ttab \0 nul \x1f \x7f",
        "quotes": "\"double\" 'single' \\back\\ /slash/ %41 +&?#=",
        "separators": "\u2028 and \u2029 and \ufeff and \ufffd",
        "empty": "",
        "spaces": "  in front and behind  ",
        "looks encoded": "SGVsbG8=",
        "looks like a status": "OK",
        "long": "0123456789abcdef" * 16_384,
        "long and wide": "ü€😀" * 20_000,
    }
    for name, text in texts.items():
        equal(redis.set(key(name), text), True)
        equal(redis.get(key(name)), text)
    equal(redis.mget(*[key(name) for name in texts]), list(texts.values()))
    equal(redis.echo("née 😀"), "née 😀")


def scripts(redis, key):
    result = redis.eval("return {KEYS[1], ARGV[1], 1, {'nested', false, 3.9}}", [key("a")], ["ü"])
    equal(result, [key("a"), "ü", 1, ["nested", None, 3]])
    equal(redis.eval("return redis.call('SET', KEYS[1], ARGV[1])", [key("a")], ["by script"]), "OK")
    equal(redis.eval_ro("return redis.call('GET', KEYS[1])", [key("a")]), "by script")
    body = f"return '{key('body')}'"
    sha = redis.script_load(body)
    equal(redis.script_exists(sha, "0" * 40), [True, False])
    equal(redis.evalsha(sha), key("body"))
    equal(redis.evalsha_ro(sha), key("body"))
    rejects(UpstashError, "NOSCRIPT", lambda: redis.evalsha("f" * 40))
    rejects(UpstashError, "MINE own error", lambda: redis.eval("return redis.error_reply('MINE own error')"))


def scripts_with_the_flag_of_upstash(redis, key):
    body = f"#!lua flags=allow-key-locking\n-- {key('')}\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])"
    equal(redis.eval(body, [key("a")], [2]), 2)
    sha = hashlib.sha1(body.encode()).hexdigest()
    equal(redis.evalsha(sha, [key("a")], [3]), 5)
    loaded = body + " + 1"
    sha = hashlib.sha1(loaded.encode()).hexdigest()
    equal(redis.script_load(loaded), sha)
    equal(redis.script_exists(sha), [True])
    equal(redis.evalsha(sha, [key("a")], [1]), 7)


def errors(redis, key):
    equal(redis.set(key("a"), "text"), True)
    rejects(UpstashError, "WRONGTYPE Operation against a key", lambda: redis.lpush(key("a"), "x"))
    rejects(UpstashError, "ERR value is not an integer", lambda: redis.incr(key("a")))
    rejects(UpstashError, "ERR no such key", lambda: redis.rename(key("missing"), key("b")))
    rejects(UpstashError, "ERR ", lambda: redis.json.get(key("a")))
    rejects(UpstashError, "ERR .*NOSUCHCOMMAND", lambda: redis.execute(["NOSUCHCOMMAND"]))
    rejects(UpstashError, "BLPOP", lambda: redis.execute(["BLPOP", key("a"), 1]))
    equal(redis.get(key("a")), "text")


def pipelines(redis, key):
    # Without braces: in a Cluster these go everywhere, and answers come in the order of the commands.
    pipeline = redis.pipeline()
    for command in range(200):
        name = key(f"m{command}").translate({ord("{"): None, ord("}"): None})
        pipeline.set(name, command)
        pipeline.get(name)
    expected = [answer for command in range(200) for answer in (True, str(command))]
    equal(pipeline.exec(), expected)
    pipeline = redis.pipeline()
    pipeline.hset(key("h"), "x", "y")
    pipeline.hgetall(key("h"))
    pipeline.incrbyfloat(key("f"), 2.5)
    equal(pipeline.exec(), [1, {"x": "y"}, 2.5])
    pipeline = redis.pipeline()
    pipeline.set(key("t"), "text")
    pipeline.incr(key("t"))
    rejects(UpstashError, "not an integer", pipeline.exec)


def transactions(redis, key):
    transaction = redis.multi()
    transaction.set(key("a"), "1")
    transaction.incrby(key("a"), 4)
    transaction.get(key("a"))
    equal(transaction.exec(), [True, 5, "5"])
    transaction = redis.multi()
    transaction.set(key("b"), "text")
    transaction.incr(key("b"))
    transaction.append(key("b"), "!")
    rejects(UpstashError, "not an integer", transaction.exec)
    equal(redis.get(key("b")), "text!")


def commands_of_8(redis, key):
    equal(redis.hsetex(key("a"), values={"x": "1", "y": "2"}, ex=100), 1)
    equal(redis.httl(key("a"), ["x", "nothing"]), [100, -2])
    equal(redis.hgetex(key("a"), "x", persist=True), ["1"])
    equal(redis.hexpire(key("a"), "x", 50), [1])
    equal(redis.hgetdel(key("a"), "x", "y"), ["1", "2"])


TYPES = [
    strings,
    numbers,
    hashes,
    lists,
    sets,
    sorted_sets,
    streams,
    places_bits_and_estimates,
    names_of_keys,
    values,
    scripts,
    scripts_with_the_flag_of_upstash,
    errors,
    pipelines,
    transactions,
]


def the_connection_has_commands_of_its_own(_key):
    redis = client()
    equal(redis.ping(), "PONG")
    equal(redis.ping("hello"), "hello")
    seconds, _ = redis.time()
    equal(abs(seconds - time.time()) < 60, True)
    equal(redis.client_setinfo("LIB-NAME", "check"), "OK")
    equal(redis.client_setinfo("lib-ver", "1.0"), "OK")
    equal(redis.publish("nobody listens", "x"), 0)


def a_wrong_token_is_refused(key):
    redis = client(token="wrong")
    rejects(UpstashError, "WRONGPASS|Unauthorized", lambda: redis.get(key("a")))


def every_answer_has_a_new_sync_token(key):
    redis = client()
    seen = set()
    for _ in range(3):
        redis.set(key("a"), "x")
        seen.add(redis._sync_token)
        pipeline = redis.pipeline()
        pipeline.get(key("a"))
        pipeline.exec()
        seen.add(redis._sync_token)
    equal(len(seen), 6)
    equal("" in seen, False)


def threads_get_their_own_answers(key):
    shared = client()
    wrong = []

    def work(thread):
        for step in range(20):
            value = f"{thread}:{step}"
            shared.set(key(value), value)
            if shared.get(key(value)) != value:
                wrong.append(value)
            shared.incr(key("n"))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(wrong, [])
    equal(shared.get(key("n")), "160")


ASKING = [
    the_connection_has_commands_of_its_own,
    a_wrong_token_is_refused,
    every_answer_has_a_new_sync_token,
    threads_get_their_own_answers,
]


async def many_at_once(key):
    async with AsyncRedis(URL, TOKEN, rest_retries=0) as redis:
        counts = await asyncio.gather(*[redis.incr(key("n")) for _ in range(200)])
        equal(sorted(counts), list(range(1, 201)))


main()
