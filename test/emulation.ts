// Tests on an emulated processor (scripts/arm64.ts): tens of times slower, and unable to start this program again. What that means for them is decided here.

export const emulated = process.env.ANEKIT_EMULATED === "1";

/** Why a test that starts Node is skipped; undefined where it can. */
export const noProcesses = emulated ? "an emulated processor, on which Node cannot start itself" : undefined;

/** One of so many cases is tried; a soak tries all. A prime number, so that some cases of every row and column of a grid come up. */
const stride = Number(process.env.ANEKIT_STRIDE ?? (emulated ? 29 : 1));

/** How many of `count` random cases to try. */
export function fewer(count: number): number {
  return Math.ceil(count / stride);
}

/** Which of a list of cases to try, number `from` among them. */
export function some<T>(list: readonly T[], from = 0): readonly T[] {
  return list.filter((_, i) => (i - from) % stride === 0);
}
