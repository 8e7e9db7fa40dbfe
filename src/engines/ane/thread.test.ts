// The engine's worker thread as the engine sees it, where it fails.

import { expect, test } from "vitest";
import { newRedirection } from "../os/index.ts";
import { Thread } from "./thread.ts";

test("a job asked for as soon as the worker failed waits for the next worker, not for the end of the last", async () => {
  const thread = new Thread({ library: "/nowhere/espresso.so", place: { folder: "/", redirection: newRedirection() } });
  const job = () => thread.do("build", { mil: "", cache: "" }).then(String, ({ message }: Error) => message);
  const first = await job();
  expect(first).toContain("cannot be loaded");
  expect(await job()).toBe(first);
  thread.close();
});
