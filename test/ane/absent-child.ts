// A process whose library cannot be loaded: what asking for the Neural Engine gives, and what `auto` takes instead.

import { openEngine } from "../../src/index.ts";

const ane = await openEngine("ane").catch((error: Error) => `${error.constructor.name}: ${error.message}`);
using auto = await openEngine("auto");
process.stdout.write(`${JSON.stringify([ane, `${auto.name} ${auto.reason}`])}\n`);
