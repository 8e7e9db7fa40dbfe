// The driver's machine code: walks a job's steps, shares out their tasks, waits and wakes.
//
// No thread waits for another one to turn up: a step is finished when its tasks are, and whoever finishes the last one goes on to the next step.
// A thread that wakes late, or that the system took off its processor, costs its own help only. Registers below: kernels keep sp and r14, so r14
// is the thread's block throughout and the rest lives in the frame.
//
// Processors may reorder what one thread does as others see it, but nothing across an atomic operation. So plain stores are for words that others
// read only after an atomic operation of the writer behind them (`publish`, counting tasks as done, telling the conductor) and one of their own, or a
// load that is marked as `acquire`, in front: taking a task or finishing the last one shows what all threads did before.

import type { Address } from "../../os/index.ts";
import { type Code, type Gp, gp, Label, mem } from "../code.ts";
import type { Isa } from "../isa/features.ts";
import { control, errorSlot, job, outcome, step, thread, ticket, wakeSet } from "./layout.ts";

const { r0, r1, r2, r3, r4, r5, r6, r7, r8, r10, r11, r14, sp } = gp;

/** Slots of the frame, from sp. */
const frame = {
  /** u32: generation that this thread has seen to its end. */
  seen: 0,
  /** Tasks done and not yet subtracted from `pending`. */
  done: 8,
  step: 16,
  task: 24,
  bytes: 32,
} as const;

/** Offsets of the driver's entry points in its code. */
export interface DriverCode {
  readonly code: Uint8Array;
  /** `void run(job)`: runs a job with the calling thread as thread 0. */
  readonly run: number;
  /** `void* worker(thread block)`: a thread's start; nobody asks for its result. */
  readonly worker: number;
  /** `void* conductor(control)`: the start of the thread that is thread 0 of asynchronous runs; the same. */
  readonly conductor: number;
  /** `void start(job)`: hands a job to the conductor. */
  readonly start: number;
  /** `void shutdown(control)`: ends the workers; no run may be in flight. */
  readonly shutdown: number;
  /** `void stopConductor(control)`: ends the conductor after the run that it may be in. */
  readonly stopConductor: number;
  /** `void ticks(u64*)`: stores the clock's ticks. */
  readonly ticks: number;
}

/** How threads sleep and wake, and how the event loop is told. All three may change every register but sp, r3 and r12 to r14. */
export interface Waiting {
  /** Sleeps while the u32 at r5 equals r2; r7 = wake set. r0 = 0 if a waker counted this thread. */
  sleep(code: Code): void;
  /** Wakes about r2 threads that sleep at r5, rather more; r7 = wake set. r0 = how many were counted. */
  wake(code: Code): void;
  /** Writes r2 bytes at r4 to the file descriptor r5. */
  write(code: Code): void;
}

// Numbers of Linux' system calls and operations of futex(2), from the kernel's headers.
const x64Calls = { write: 1, futex: 202 } as const;
const systemCalls = {
  avx2: x64Calls,
  avx512: x64Calls,
  neon: { write: 64, futex: 98 },
} as const satisfies Record<Isa, Record<keyof typeof x64Calls, number>>;
const futexWaitBitset = 9 | 128; // private to this process
const futexWakeBitset = 10 | 128;

function systemCall(code: Code, name: keyof typeof x64Calls): void {
  code.movImm(r0, systemCalls[code.isa][name]);
  code.syscall();
}

/** Linux: by the kernel's futex. */
export const futexWaiting: Waiting = {
  sleep(code) {
    code.movImm(r4, futexWaitBitset);
    code.zero(r8); // no time limit
    systemCall(code, "futex");
  },
  wake(code) {
    code.movImm(r4, futexWakeBitset);
    systemCall(code, "futex");
  },
  write: (code) => systemCall(code, "write"),
};

/** Anywhere: by the mutex and the condition in the control block. Whoever changes a word that others sleep at does so before `wake`. */
export function posixWaiting(symbol: (name: string) => Address): Waiting {
  /** r5 = the control block's `offset`, from the word's address in r10, which C keeps. */
  const address = (code: Code, offset: number) => {
    code.mov(r5, r10);
    code.aluImm("and", r5, -control.alignment);
    code.aluImm("add", r5, offset);
  };
  return {
    sleep(code) {
      const skip = new Label();
      code.mov(r10, r5);
      code.mov32(r11, r2);
      address(code, control.mutex);
      code.callC(symbol("pthread_mutex_lock"));
      code.alu32("cmp", r11, mem(r10));
      code.jcc("ne", skip);
      address(code, control.mutex);
      code.mov(r4, r5);
      address(code, control.condition);
      code.callC(symbol("pthread_cond_wait"));
      code.bind(skip);
      address(code, control.mutex);
      code.callC(symbol("pthread_mutex_unlock"));
      code.movImm(r0, 1);
    },
    wake(code) {
      code.mov(r10, r5);
      for (const [name, offset] of [
        ["pthread_mutex_lock", control.mutex],
        ["pthread_cond_broadcast", control.condition],
        ["pthread_mutex_unlock", control.mutex],
      ] as const) {
        address(code, offset);
        code.callC(symbol(name));
      }
      code.movImm(r0, 0);
    },
    write: (code) => code.callC(symbol("write")),
  };
}

/** Writes the driver, which is all that the code then holds. */
export function emitDriver(code: Code, { sleep, wake, write }: Waiting): DriverCode {
  const next = new Label();
  const take = new Label();
  const wait = new Label();
  const changed = new Label();
  const look = new Label();
  const exit = new Label();
  const entry = () => {
    code.align(16);
    return code.here();
  };

  const prologue = () => {
    code.enterFromC(frame.bytes);
    code.setRounding();
    code.movMemImm(mem(sp, frame.done), 0);
  };
  /** Calls the kernel of the step at r8 for task r4; r7 = job. */
  const callKernel = () => {
    code.mov(r2, mem(r14, thread.scratch));
    code.aluImm("add", r7, job.error);
    code.mov(mem(r2, errorSlot), r7);
    code.mov(r5, mem(r8, step.args));
    code.call(mem(r8, step.kernel));
  };
  /** Stores a time stamp for the step in the frame if the job wants it; r6 = control. Changes r0, r1, r2, r7, r8. */
  const stamp = (offset: 0 | 8) => {
    const skip = new Label();
    code.mov(r7, mem(r6, control.job));
    code.mov(r8, mem(r7, job.profile));
    code.test(r8, r8);
    code.jcc("e", skip);
    code.mov(r1, mem(sp, frame.step));
    code.alu("sub", r1, mem(r7, job.first));
    code.shift("shr", r1, 1); // 16 bytes of stamps for 32 of a step
    code.ticks();
    code.mov(mem(r8, offset, r1), r0);
    code.bind(skip);
  };
  /** Makes the ticket's next generation, low half = `kind` plus `count`, behind all stores so far. r6 = control. Changes r0 and r2. */
  const publish = (kind: number, count?: Gp) => {
    code.mov32(r2, mem(r6, control.generation));
    code.aluImm("add", r2, 1);
    code.shift("shl", r2, 32);
    code.movImm(r0, kind);
    code.alu("or", r2, r0);
    if (count !== undefined) code.alu("add", r2, count);
    code.xchg(mem(r6, control.ticket), r2);
  };

  /** Wakes about r2 threads of a set that sleep at the generation, and counts them out. r6 = control; as all of `Waiting` it changes registers. */
  const wakeThreads = (set: number) => {
    code.movImm(r7, set);
    code.lea(r5, mem(r6, control.generation));
    wake(code);
    code.neg(r0);
    code.mov(r6, mem(r14, thread.control));
    code.lockAdd32(mem(r6, control.sleepers), r0);
  };

  // ---------------------------------------------------------------------------------------------- thread 0 of a run
  const run = entry();
  prologue();
  code.mov(r14, mem(r5, job.caller));
  code.mov(r6, mem(r14, thread.control));
  code.mov(mem(r6, control.job), r5);
  code.vzero(0);
  for (let at = 0; at < 64; at += code.vectorBytes) code.vstore(code.vectorBytes, mem(r5, job.error + at), 0);
  code.mov(r0, mem(r5, job.first));
  code.aluImm("sub", r0, step.bytes);
  code.mov(mem(sp, frame.step), r0);

  // ---------------------------------------------------------------------------------------------- on to the next step
  // Only one thread is here at a time: the one that finished the last task of the step in its frame.
  const finish = new Label();
  const share = new Label();
  code.bind(next);
  code.mov(r6, mem(r14, thread.control));
  code.mov(r7, mem(r6, control.job));
  code.mov(r0, mem(sp, frame.step));
  code.aluImm("add", r0, step.bytes);
  code.movImm(r1, outcome.failed);
  code.aluImm("cmp", mem(r7, job.error), 0);
  code.jcc("ne", finish);
  code.movImm(r1, outcome.done);
  code.alu("cmp", r0, mem(r7, job.end));
  code.jcc("e", finish);
  code.movImm(r1, outcome.stopped);
  code.aluImm32("cmp", mem(r7, job.stop), 0);
  code.jcc("ne", finish);
  code.mov(mem(sp, frame.step), r0);
  stamp(0);
  code.mov(r8, mem(sp, frame.step));
  code.mov32(r4, mem(r8, step.tasks));
  code.alu32("cmp", r4, mem(r7, job.inlineTasks));
  code.jcc("a", share);

  // One task, or a job that is not worth waking anybody.
  code.movMemImm(mem(sp, frame.task), 0);
  const serial = code.here();
  const serialDone = new Label();
  code.mov(r8, mem(sp, frame.step));
  code.mov(r4, mem(sp, frame.task));
  code.mov32(r1, mem(r8, step.tasks));
  code.alu("cmp", r4, r1);
  code.jcc("ae", serialDone);
  code.aluImm("add", mem(sp, frame.task), 1);
  code.mov(r6, mem(r14, thread.control));
  code.mov(r7, mem(r6, control.job));
  callKernel();
  code.jmp(serial);
  code.bind(serialDone);
  code.mov(r6, mem(r14, thread.control));
  stamp(8);
  code.jmp(next);

  // Several tasks, r4 of them.
  code.bind(share);
  code.mov(mem(r6, control.step), r8);
  code.mov(mem(r6, control.pending), r4);
  publish(ticket.open, r4);
  // Wake as many as there is work for, but no more than there are processors.
  code.mov32(r0, mem(r6, control.sleepers));
  code.test32(r0, r0);
  code.jcc("e", take);
  code.alu32("add", r0, mem(r6, control.cores));
  code.alu32("sub", r0, mem(r6, control.threads));
  code.jcc("le", take);
  code.lea(r2, mem(r4, -1));
  code.alu("cmp", r2, r0);
  code.cmov("a", r2, r0);
  wakeThreads(wakeSet.all);

  // ---------------------------------------------------------------------------------------------- tasks
  code.bind(take);
  const none = new Label();
  code.mov(r6, mem(r14, thread.control));
  code.movImm(r0, -1);
  code.lockXadd(mem(r6, control.ticket), r0);
  code.movImm(r2, ticket.open);
  code.mov32(r1, r0);
  code.alu32("sub", r1, r2);
  code.jcc("be", none);
  // A task that was taken and is not finished keeps step and job where they are.
  code.mov(r8, mem(r6, control.step));
  code.mov(r7, mem(r6, control.job));
  code.mov32(r4, mem(r8, step.tasks));
  code.alu32("sub", r4, r1);
  code.aluImm("add", mem(sp, frame.done), 1);
  callKernel();
  code.jmp(take);

  code.bind(none);
  code.mov(r2, r0);
  code.shift("shr", r2, 32);
  code.mov32(mem(sp, frame.seen), r2);
  code.mov(r3, mem(sp, frame.done));
  code.test(r3, r3);
  code.jcc("e", changed); // r0 = ticket, r2 = its generation: the run may have ended meanwhile
  code.endVectors();
  code.movMemImm(mem(sp, frame.done), 0);
  code.mov(r0, r3);
  code.neg(r0);
  code.lockXadd(mem(r6, control.pending), r0);
  code.alu("cmp", r0, r3);
  code.jcc("ne", wait);
  code.mov(r8, mem(r6, control.step));
  code.mov(mem(sp, frame.step), r8);
  stamp(8);
  code.jmp(next);

  // ---------------------------------------------------------------------------------------------- waiting
  code.bind(wait);
  code.ticks();
  code.mov(r8, r0);
  code.alu("add", r8, mem(r6, control.spin));
  const spin = code.here();
  code.pause();
  code.acquire(r0, mem(r6, control.ticket));
  code.mov(r2, r0);
  code.shift("shr", r2, 32);
  code.alu32("cmp", r2, mem(sp, frame.seen));
  code.jcc("ne", changed);
  code.ticks();
  code.alu("cmp", r0, r8);
  code.jcc("b", spin);

  // Sleepers are counted before they look at the generation (the kernel compares), wakers publish before they look at the count.
  const caller = () => code.aluImm32("cmp", mem(r14, thread.wakeSet), wakeSet.caller);
  const isWorker = new Label();
  caller();
  code.jcc("ne", isWorker);
  code.movImm(r0, 1);
  code.xchg32(mem(r6, control.callerAsleep), r0);
  code.bind(isWorker);
  code.lockAddImm32(mem(r6, control.sleepers), 1);
  code.lea(r5, mem(r6, control.generation));
  code.mov32(r2, mem(sp, frame.seen));
  code.mov32(r7, mem(r14, thread.wakeSet));
  sleep(code);
  code.mov(r6, mem(r14, thread.control));
  const woken = new Label();
  code.test(r0, r0);
  code.jcc("e", woken); // whoever woke this thread has counted it out
  code.lockAddImm32(mem(r6, control.sleepers), -1);
  code.bind(woken);
  const isWorkerToo = new Label();
  caller();
  code.jcc("ne", isWorkerToo);
  code.movImm(r0, 0);
  code.mov32(mem(r6, control.callerAsleep), r0);
  code.bind(isWorkerToo);

  code.bind(look);
  code.acquire(r0, mem(r6, control.ticket));
  code.mov(r2, r0);
  code.shift("shr", r2, 32);
  code.alu32("cmp", r2, mem(sp, frame.seen));
  code.jcc("e", wait);
  code.bind(changed); // r0 = ticket, r2 = its generation
  code.alu32("cmp", r0, mem(r14, thread.exitBelow));
  code.jcc("b", exit);
  code.movImm(r1, ticket.open);
  code.alu32("cmp", r0, r1);
  code.jcc("a", take);
  code.mov32(mem(sp, frame.seen), r2);
  code.jmp(wait);

  // ---------------------------------------------------------------------------------------------- the end of a run
  code.bind(finish); // r1 = outcome, r0 = behind the last step that ran
  code.mov32(mem(r7, job.outcome), r1);
  code.mov(mem(r7, job.reached), r0);
  code.mov32(r0, mem(r6, control.generation));
  code.mov32(mem(sp, frame.seen), r0);
  publish(ticket.idle); // from here on the job may be gone
  code.aluImm32("cmp", mem(r6, control.callerAsleep), 0);
  code.jcc("e", look);
  code.movImm(r2, 1);
  wakeThreads(wakeSet.caller);
  code.jmp(look);

  code.bind(exit);
  code.leaveToC(frame.bytes);
  code.ret();

  // ---------------------------------------------------------------------------------------------- other threads' starts
  const worker = entry();
  prologue();
  code.mov(r14, r5);
  code.mov(r6, mem(r14, thread.control));
  code.acquire(r0, mem(r6, control.ticket));
  code.mov(r2, r0);
  code.shift("shr", r2, 32);
  code.jmp(changed);

  const conductor = entry();
  code.enterFromC(0);
  code.mov(r3, r5);
  code.zero(r14);
  const listen = code.here();
  const called = new Label();
  code.ticks();
  code.mov(r8, r0);
  code.alu("add", r8, mem(r3, control.spin));
  const listening = code.here();
  code.pause();
  code.alu32("cmp", r14, mem(r3, control.conductorWord));
  code.jcc("ne", called);
  code.ticks();
  code.alu("cmp", r0, r8);
  code.jcc("b", listening);
  code.movImm(r0, 1);
  code.xchg32(mem(r3, control.conductorAsleep), r0);
  code.lea(r5, mem(r3, control.conductorWord));
  code.mov32(r2, r14);
  code.movImm(r7, wakeSet.all);
  sleep(code);
  code.movImm(r0, 0);
  code.mov32(mem(r3, control.conductorAsleep), r0);
  code.alu32("cmp", r14, mem(r3, control.conductorWord));
  code.jcc("e", listen);
  code.bind(called);
  const end = new Label();
  code.acquire32(r14, mem(r3, control.conductorWord));
  code.mov(r5, mem(r3, control.conductorJob));
  code.test(r5, r5);
  code.jcc("e", end);
  code.call(run);
  code.mov32(r5, mem(r3, control.conductorFd));
  code.mov(r4, r3); // any byte will do
  code.movImm(r2, 1);
  write(code);
  code.jmp(listen);
  code.bind(end);
  code.leaveToC(0);
  code.ret();

  // ---------------------------------------------------------------------------------------------- calls from JavaScript
  const fromJs = (body: () => void) => {
    const label = entry();
    code.enterFromC(0);
    body();
    code.leaveToC(0);
    code.ret();
    return label;
  };
  /** r5 = control, r4 = job or 0. */
  const tellConductor = () => {
    const awake = new Label();
    code.mov(mem(r5, control.conductorJob), r4);
    code.lockAddImm32(mem(r5, control.conductorWord), 1);
    code.aluImm32("cmp", mem(r5, control.conductorAsleep), 0);
    code.jcc("e", awake);
    code.aluImm("add", r5, control.conductorWord);
    code.movImm(r2, 1);
    code.movImm(r7, wakeSet.all);
    wake(code);
    code.bind(awake);
  };
  const start = fromJs(() => {
    code.mov(r4, r5);
    code.mov(r5, mem(r4, job.caller));
    code.mov(r5, mem(r5, thread.control));
    tellConductor();
  });
  const stopConductor = fromJs(() => {
    code.movImm(r4, 0);
    tellConductor();
  });
  const shutdown = fromJs(() => {
    code.mov(r6, r5);
    publish(ticket.shutdown);
    code.lea(r5, mem(r6, control.generation));
    code.movImm(r2, 0x7fffffff);
    code.movImm(r7, wakeSet.all);
    wake(code);
  });

  const ticks = entry();
  code.ticks();
  code.mov(mem(r5), r0);
  code.ret();

  return {
    code: code.finish(),
    run: run.at,
    worker: worker.at,
    conductor: conductor.at,
    start: start.at,
    shutdown: shutdown.at,
    stopConductor: stopConductor.at,
    ticks: ticks.at,
  };
}
