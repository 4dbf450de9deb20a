// Takes a lock by its name, keeps it until its lease is over, and prints what came of it: `node lock.mjs '{"policy": …}'`.

import { createGuard } from "tollgate";

const { policy, redis, name, key, lease } = JSON.parse(process.argv[2]);
const guard = await createGuard({ policy, redis, timeout: "10s" });
console.log(JSON.stringify(await guard.lock(name, key, { lease })));
