"""What `upstash-ratelimit` promises its users, asked of the gateway, which is in the environment."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from upstash_ratelimit import FixedWindow, Ratelimit, SlidingWindow, TokenBucket
from upstash_ratelimit.asyncio import Ratelimit as AsyncRatelimit
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis

from checks import Checks, equal, next_window

URL = os.environ["GATEWAY_URL"]
TOKEN = os.environ["GATEWAY_TOKEN"]

# `quota` requests, and none of them comes back while a check runs.
ALGORITHMS = {
    "fixed window": lambda quota: FixedWindow(quota, 30, "d"),
    "sliding window": lambda quota: SlidingWindow(quota, 30, "d"),
    "token bucket": lambda quota: TokenBucket(quota, quota, 30, "d"),
}


def main():
    checks = Checks()
    for algorithm, limiter in ALGORITHMS.items():
        for body in ALL:
            name = f"{body.__name__} ({algorithm})"
            # The braces keep the keys of one limiter together in a Cluster.
            checks.check(name, body, limiter, f"{{{name}}}")
    for body in OTHERS:
        checks.check(body.__name__, body, f"{{{body.__name__}}}")
    checks.conclude()


def redis():
    return Redis(URL, TOKEN, rest_retries=0)


def as_many_pass_as_may(limiter, prefix):
    ratelimit = Ratelimit(redis(), limiter(5), prefix)
    equal(ratelimit.get_remaining("a"), 5)
    for left in (4, 3, 2, 1, 0):
        answer = ratelimit.limit("a")
        equal((answer.allowed, answer.limit, answer.remaining), (True, 5, left))
        equal(answer.reset > time.time(), True)
    answer = ratelimit.limit("a")
    equal((answer.allowed, answer.limit, answer.remaining), (False, 5, 0))
    equal(ratelimit.get_remaining("a"), 0)
    equal(ratelimit.get_reset("a") > time.time(), True)
    equal(ratelimit.limit("b").allowed, True)


def a_request_may_cost_more_than_one(limiter, prefix):
    ratelimit = Ratelimit(redis(), limiter(10), prefix)
    equal(ratelimit.limit("a", rate=4).remaining, 6)
    equal(ratelimit.limit("a", rate=6).remaining, 0)
    equal(ratelimit.limit("a").allowed, False)


def exactly_as_many_pass_when_all_ask_at_once(limiter, prefix):
    clients = [redis() for _ in range(4)]

    def ask(number):
        return Ratelimit(clients[number % 4], limiter(25), prefix).limit("crowd").allowed

    with ThreadPoolExecutor(16) as threads:
        equal(sum(threads.map(ask, range(80))), 25)


def exactly_as_many_pass_in_asyncio(limiter, prefix):
    async def ask():
        async with AsyncRedis(URL, TOKEN, rest_retries=0) as client:
            ratelimit = AsyncRatelimit(client, limiter(25), prefix)
            return await asyncio.gather(*[ratelimit.limit("crowd") for _ in range(80)])

    answers = asyncio.run(ask())
    equal(sum(answer.allowed for answer in answers), 25)
    equal(sorted(answer.remaining for answer in answers if answer.allowed), list(range(25)))


def identifiers_may_be_any_text(limiter, prefix):
    ratelimit = Ratelimit(redis(), limiter(1), prefix)
    for identifier in ("203.0.113.7", "ü 😀", "a:b*c?[d]", "{tag}x", " ", '"quoted"'):
        equal(ratelimit.limit(identifier).allowed, True)
        equal(ratelimit.limit(identifier).allowed, False)


ALL = [
    as_many_pass_as_may,
    a_request_may_cost_more_than_one,
    exactly_as_many_pass_when_all_ask_at_once,
    exactly_as_many_pass_in_asyncio,
    identifiers_may_be_any_text,
]


def a_refused_request_can_wait(prefix):
    ratelimit = Ratelimit(redis(), FixedWindow(1, 1, "s"), prefix)
    next_window(1)
    equal(ratelimit.limit("a").allowed, True)
    equal(ratelimit.limit("a").allowed, False)
    equal(ratelimit.block_until_ready("a", 3).allowed, True)


def a_bucket_is_filled_again(prefix):
    ratelimit = Ratelimit(redis(), TokenBucket(5, 3, 1, "s"), prefix)
    equal([ratelimit.limit("a").allowed for _ in range(6)], [True] * 5 + [False])
    time.sleep(max(0, ratelimit.get_reset("a") - time.time()) + 0.02)
    equal([ratelimit.limit("a").allowed for _ in range(4)], [True] * 3 + [False])


OTHERS = [a_refused_request_can_wait, a_bucket_is_filled_again]


main()
