// `anekit data` and `anekit train` on images, as processes.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, describe, expect, it, vi } from "vitest";
import { anekit, lines, temporaryFolder } from "./anekit.ts";

vi.setConfig({ testTimeout: 120_000 }); // a process takes half a second and draws digits for another, on a busy machine far more

const temporary = temporaryFolder();
const env = { ANEKIT_DATA_DIR: temporary.path("data") };
const asked: string[] = [];
const server = createServer((request, response) => {
  asked.push(request.url ?? "");
  response.writeHead(404).end();
});
afterAll(() => void server.close().closeAllConnections());

describe("anekit data", () => {
  it("lists the sets and where they are", async () => {
    const [text, json] = await Promise.all([
      anekit(["data", "list"], { env }),
      anekit(["data", "list", "--json"], { env }),
    ]);
    expect(text).toMatchObject({ code: 0, stderr: `downloads go to ${env.ANEKIT_DATA_DIR}\n` });
    expect(text.stdout).toMatch(/fashion-mnist .*\ncifar10 +170 MB +no +CIFAR-10/);
    expect(lines(json.stdout).map((line) => JSON.parse(line))[1]).toMatchObject({
      name: "cifar10",
      downloadBytes: 170052171,
      folder: null,
    });
  });

  it("says in one line why a download failed, after asking the given addresses only", async () => {
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mirror`;
    const outcomes = await Promise.all([
      anekit(["data", "download", "cifar10", "--url", url], { env }),
      anekit(["data", "download", "cifar10", "--url", "ftp://host/"], { env }),
      anekit(["data", "download", "imagenet"], { env }),
    ]);
    const messages = [
      `cifar-10-binary.tar.gz: cannot be downloaded: ${url}/cifar-10-binary.tar.gz answers 404 Not Found`,
      '"ftp://host/" is not an address that begins with http:// or https://',
      '"imagenet" is none of fashion-mnist, cifar10',
    ];
    for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
      expect({ code, stdout, lines: lines(stderr).length }).toEqual({ code: 2, stdout: "", lines: 1 });
      expect(stderr).toContain(messages[i]);
    }
    expect(asked).toEqual(["/mirror/cifar-10-binary.tar.gz"]);
  });
});

describe("anekit train on images", () => {
  it("trains on generated digits, validates every epoch, and resumes", async () => {
    const out = temporary.path("run");
    const common = [
      "--model",
      "cnn-tiny",
      "--data",
      "digits",
      "--batch",
      "200",
      "--engine",
      "cpu",
      "--json",
      "--out",
      out,
    ];
    const first = await anekit(["train", ...common, "--steps", "20", "--lr", "1e-2", "--warmup", "5"], { env });
    expect(first.code).toBe(0);
    const events = lines(first.stdout).map((line) => JSON.parse(line));
    expect(events[0]).toMatchObject({ type: "start", imagesPerStep: 200 });
    expect(events.filter(({ type }) => type === "validation")).toMatchObject([
      { step: 20, accuracy: expect.any(Number) },
    ]);
    expect(events.at(-1).summary).toMatchObject({ steps: 20, valAccuracy: expect.any(Number) });
    const [more, other, strange, text] = await Promise.all([
      anekit(["train", "--resume", "--out", out, "--epochs", "2", "--json"], { env }),
      anekit(["train", "--resume", "--out", out, "--augment", "flip"], { env }),
      anekit(["train", "--resume", "--out", out, "--seq-len", "8"], { env }),
      anekit(["generate", out, "x"], { env }),
    ]);
    expect(JSON.parse(lines(more.stdout).at(-1)!).summary).toMatchObject({ steps: 40 });
    expect(more.stderr).toContain("the run was to have 20 steps, now 40");
    expect(await anekit(["train", "--resume", "--out", out, "--steps", "5"], { env })).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("is at step 40, beyond the 5 asked for"),
    });
    expect(JSON.parse(readFileSync(`${out}/run.json`, "utf8"))).toMatchObject({ steps: 40 });
    expect(other).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("the run has another augmentation than flip"),
    });
    expect(strange).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--seq-len does not apply to model cnn-tiny"),
    });
    expect(text).toMatchObject({ code: 2, stderr: expect.stringContaining("is no checkpoint of a language model") });
    expect((await anekit(["inspect", out])).stdout).toContain("cnn: images 1 x 8 x 8, channels 8, 16");
  });

  it("tells what does not fit in one line", async () => {
    const cases = [
      [["--model", "cnn", "--data", "cifar10"], "run anekit data download cifar10"],
      [["--model", "cnn", "--data", temporary.path("nothing")], "neither a known set nor a folder"],
      [["--model", "cnn"], "no images to learn"],
      [["--model", "cnn", "--data", "digits", "--seq-len", "8"], "--seq-len does not apply to model cnn"],
      [["--data", "digits"], "digits are images, model nano learns text; add --model cnn"],
      [["--data", "x.txt", "--epochs", "2"], "--epochs does not apply to model nano"],
      [["--model", "cnn", "--data", "digits", "--augment", "turn"], '"turn" is none of crop=N, flip, cutout=N, none'],
      [["--model", "cnn", "--data", "digits", "--steps", "2", "--epochs", "2"], "--steps and --epochs say the same"],
    ] as const;
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await anekit(["train", ...args], { env });
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(lines(stderr)).toHaveLength(1);
      expect(stderr).toContain(message);
    }
  });
});
