// A process that uses Espresso's double: `child.ts LIBRARY SCENARIO FOLDER`; what it is for is in double.test.ts.

import { Worker } from "node:worker_threads";
import koffi from "koffi";
import { Raw } from "./raw.ts";
import { Sequence } from "./sequence.ts";

const [, , library, scenario, folder] = process.argv as [string, string, string, string, string];
koffi.config({ sync_stack_size: scenario === "stack" ? 256 << 10 : 4 << 20 });
const raw = new Raw(library);

function ready(): Sequence {
  const s = new Sequence(raw, folder).ready();
  s.bits("buffer in x").fill(0x4000);
  s.bits("buffer in w").fill(0x4200);
  return s;
}

switch (scenario) {
  case "right":
  case "stack": {
    using s = ready();
    if (s.execute() !== 0) throw new Error("execute failed");
    console.log(s.bits("buffer out y")[0] === 0x4600 ? 6 : "wrong");
    break;
  }
  case "leak":
    raw.push();
    raw.call("execution_stream_reset", makeStream());
    break;
  case "stale": {
    const s = ready();
    const old = s.at("buffer in x");
    s.release("stream", "buffer in x");
    raw.call("buffer_object_get_size", old, new BigUint64Array(1));
    break;
  }
  case "view": {
    const s = ready();
    const bits = s.bits("buffer in x");
    s.release("stream", "buffer in x");
    console.log(bits[0]);
    break;
  }
  case "outside": {
    const s = ready();
    const data = new BigUint64Array(1);
    s.ok("buffer_object_get_data_ptr", s.at("buffer in x"), data);
    console.log(raw.memory(data[0]!, 65)[64]);
    break;
  }
  case "threads": {
    const token = raw.push();
    const text = `
      const koffi = require("koffi");
      const { workerData } = require("node:worker_threads");
      const library = koffi.load(workerData.library);
      library.func("objc_autoreleasePoolPush", "uintptr_t", [])();
      library.func("objc_autoreleasePoolPop", "void", ["uintptr_t"])(workerData.token);`;
    const worker = new Worker(text, { eval: true, workerData: { library, token }, execArgv: [] });
    await new Promise((resolve, reject) => worker.on("exit", resolve).on("error", reject));
    raw.pop(token);
    break;
  }
  case "kill": {
    const s = ready();
    process.kill(raw.counts().simulator!, "SIGKILL");
    const first = s.execute() === 0 ? "worked" : "failed";
    console.log(first, s.execute() === 0 ? "worked" : "failed");
    s.close();
    break;
  }
  case "orphan":
    ready();
    console.log(raw.counts().simulator);
    process.kill(process.pid, "SIGKILL");
    break;
}

function makeStream(): bigint {
  const out = new BigUint64Array(1);
  raw.call("execution_stream_create", out);
  return out[0]!;
}
