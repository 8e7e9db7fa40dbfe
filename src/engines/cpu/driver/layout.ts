// Where the driver's code and its TypeScript side keep what they share: byte offsets in native memory. Nothing here depends on the processor.

/**
 * State of a team. The ticket is the one word that decides: its upper half counts generations (one a step that is shared out, one a finished run),
 * its lower half is `open` plus the tasks that nobody took yet, or `idle`, or `shutdown`. Words that different threads write have 128 bytes each:
 * processors fetch pairs of 64-byte lines.
 */
export const control = {
  /** u64. Upper half (+4) is what waiting threads watch and sleep on. */
  ticket: 0x000,
  generation: 0x004,
  /** i64: tasks of the step that are not finished. */
  pending: 0x080,
  /** Address of the step whose tasks are shared out. */
  step: 0x100,
  /** Address of the running job. */
  job: 0x108,
  /** u32: threads that may be awake at once. */
  cores: 0x110,
  /** u32: threads of the team, the caller's included. */
  threads: 0x114,
  /** u64: ticks that a waiting thread spins before it sleeps. */
  spin: 0x118,
  /** u32: threads that sleep; a hint. */
  sleepers: 0x180,
  /** u32: 1 while thread 0 sleeps. */
  callerAsleep: 0x184,
  /** u32: changes when the conductor has something to do. */
  conductorWord: 0x200,
  conductorAsleep: 0x204,
  /** Job for the conductor; 0 ends it. */
  conductorJob: 0x208,
  /** u32: file descriptor that the conductor writes a byte to at the end of a run. */
  conductorFd: 0x210,
  /** Mutex and condition, where threads sleep by them. */
  mutex: 0x280,
  condition: 0x300,
  bytes: 0x380,
  /** The block starts at a multiple of this: an address in it leads to its start. */
  alignment: 0x1000,
} as const;

/** Lower half of a ticket. */
export const ticket = {
  /** Plus the number of tasks left; threads that come too late count it down below, but never far. */
  open: 0x80000000,
  idle: 0x40000000,
  shutdown: 0x20000000,
  /** Thread 0 returns where the lower half is below this. */
  callerExit: 0x60000000,
  /** Workers end where it is below this. */
  workerExit: 0x30000000,
} as const;

/** What belongs to one thread. */
export const thread = {
  control: 0x00,
  scratch: 0x08,
  /** u32: `ticket.callerExit` or `ticket.workerExit`. */
  exitBelow: 0x10,
  /** u32: which wake-ups reach it. */
  wakeSet: 0x14,
  bytes: 0x80,
} as const;

export const wakeSet = { caller: 1, worker: 2, all: 0xffffffff } as const;

/** A job: this header, then its steps. */
export const job = {
  /** Address of the first step, and behind the last one. */
  first: 0x00,
  end: 0x08,
  /** u32: steps with at most so many tasks run on one thread. */
  inlineTasks: 0x10,
  /** Address of two time stamps a step, or 0. */
  profile: 0x18,
  /** Thread block of thread 0. */
  caller: 0x20,
  /** Address behind the last step that ran. */
  reached: 0x28,
  /** u32: see `outcome`. */
  outcome: 0x30,
  /** 64 bytes that kernels report errors in; the first word is not 0 after an error. */
  error: 0x40,
  /** u32: JavaScript sets it to stop the job between two steps. */
  stop: 0x80,
  steps: 0xc0,
} as const;

export const outcome = { done: 0, failed: 1, stopped: 2 } as const;

export const step = {
  kernel: 0x00,
  args: 0x08,
  /** u32. */
  tasks: 0x10,
  bytes: 0x20,
} as const;

/** From a thread's scratch memory: where it finds the address of the running job's error block. */
export const errorSlot = -64;
