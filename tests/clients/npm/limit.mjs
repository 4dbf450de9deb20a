// Asks about one limit by its name, several times, and prints what came of it: `node limit.mjs '{"policy": …}'`.

import { createGuard } from "tollgate";

const { policy, redis, name, key, times } = JSON.parse(process.argv[2]);
const guard = await createGuard({ policy, redis, timeout: "10s" });
const answers = [];
for (let time = 0; time < times; time += 1) answers.push(await guard.limit(name, key));
console.log(JSON.stringify(answers));
