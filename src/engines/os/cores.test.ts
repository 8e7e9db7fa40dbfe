// The number of threads: processors, container quotas of both versions, and the user's own number.

import { describe, expect, test } from "vitest";
import { availableCores, cgroupQuota } from "./cores.ts";

const files = (content: Record<string, string>) => (path: string) => content[path];

describe("availableCores", () => {
  test("is the number of processors without a quota", () => {
    expect(availableCores(undefined, { read: files({}), cores: 12 })).toBe(12);
    expect(availableCores("", { read: files({}), cores: 3 })).toBe(3);
    expect(availableCores()).toBeGreaterThan(0);
  });

  test("takes the quota of cgroup version 2, of this group or one above it, rounded up", () => {
    const read = files({
      "/proc/self/cgroup": "0::/user.slice/app.scope\n",
      "/sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000\n",
      "/sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
    });
    expect(cgroupQuota(read)).toBe(2.5);
    expect(availableCores(undefined, { read, cores: 8 })).toBe(3);
    expect(availableCores(undefined, { read, cores: 2 })).toBe(2);
  });

  test("takes the quota inside a container, where the group is the root of the mount", () => {
    const read = files({ "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n" });
    expect(availableCores(undefined, { read, cores: 8 })).toBe(1);
    const foreign = files({ "/proc/self/cgroup": "0::/../../x\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n" });
    expect(availableCores(undefined, { read: foreign, cores: 8 })).toBe(2);
  });

  test("takes the quota of cgroup version 1", () => {
    const read = files({
      "/proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n0::/\n",
      "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
      "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
      "/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "400000\n",
      "/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
    });
    expect(cgroupQuota(read)).toBe(4);
  });

  test("has no limit where the files say nothing or nonsense", () => {
    for (const text of ["max 100000", "", "x y", "100000 0", "-1 100000"]) {
      expect(cgroupQuota(files({ "/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/cpu.max": text }))).toBe(Infinity);
    }
    expect(cgroupQuota(files({ "/proc/self/cgroup": "garbage\n\n" }))).toBe(Infinity);
  });

  test("takes the user's number from 1 to 256, and nothing else", () => {
    expect(availableCores("1", { cores: 8 })).toBe(1);
    expect(availableCores("256", { cores: 8 })).toBe(256);
    for (const text of ["0", "257", "-1", "1.5", "two", " 2", "1e2", "0x10"]) {
      expect(() => availableCores(text)).toThrow(`ANEKIT_THREADS: "${text}" is not a whole number from 1 to 256`);
    }
  });
});
