// The driver's machine code for x86-64: walks a job's steps, shares out their tasks, waits and wakes.
//
// No thread waits for another one to turn up: a step is finished when its tasks are, and whoever finishes the last one goes on to the next step.
// A thread that wakes late, or that the system took off its processor, costs its own help only. Registers below: kernels keep rsp and rbp, so rbp
// is the thread's block throughout and the rest lives in the frame.

import type { Address } from "../../os/index.ts";
import { type Gp, gp, Label, mem, X64 } from "../isa/x64.ts";
import { control, errorSlot, job, outcome, step, thread, ticket, wakeSet } from "./layout.ts";

const { rax, rbx, rcx, rdx, rsp, rbp, rsi, rdi, r8, r9, r10, r12, r13, r14, r15 } = gp;
const saved = [rbx, rbp, r12, r13, r14, r15];

/** Slots of the frame, from rsp. */
const frame = {
  /** u32: generation that this thread has seen to its end. */
  seen: 0,
  /** Tasks done and not yet subtracted from `pending`. */
  done: 8,
  step: 16,
  task: 24,
  callerMxcsr: 32,
  mxcsr: 36,
  bytes: 40, // with six saved registers and the return address a multiple of 16: kernels may use the stack as the calling convention says
} as const;

/** Round to nearest, no flush to zero, all exceptions masked. */
const defaultMxcsr = 0x1f80;

/** Offsets of the driver's entry points in its code. */
export interface DriverCode {
  readonly code: Uint8Array;
  /** `void run(job)`: runs a job with the calling thread as thread 0. */
  readonly run: number;
  /** `void* worker(thread block)`: a thread's start. */
  readonly worker: number;
  /** `void* conductor(control)`: the start of the thread that is thread 0 of asynchronous runs. */
  readonly conductor: number;
  /** `void start(job)`: hands a job to the conductor. */
  readonly start: number;
  /** `void shutdown(control)`: ends the workers; no run may be in flight. */
  readonly shutdown: number;
  /** `void stopConductor(control)`: ends the conductor after the run that it may be in. */
  readonly stopConductor: number;
  /** `void ticks(u64*)`: stores the time stamp counter. */
  readonly ticks: number;
}

/** How threads sleep and wake, and how the event loop is told. All three may change every register that calls need not keep, but no other. */
export interface Waiting {
  /** Sleeps while the u32 at rdi equals edx; r9 = wake set. rax = 0 if a waker counted this thread. */
  sleep(asm: X64): void;
  /** Wakes about edx threads that sleep at rdi, rather more; r9 = wake set. rax = how many were counted. */
  wake(asm: X64): void;
  /** Writes rdx bytes at rsi to the file descriptor rdi. */
  write(asm: X64): void;
}

// System calls of x86-64 Linux and operations of futex(2), from the kernel's headers.
const sysWrite = 1;
const sysFutex = 202;
const futexWaitBitset = 9 | 128; // private to this process
const futexWakeBitset = 10 | 128;

/** Linux: by the kernel's futex. */
export const futexWaiting: Waiting = {
  sleep(asm) {
    asm.movImm(rsi, futexWaitBitset);
    asm.alu32("xor", r10, r10); // no time limit
    asm.movImm(rax, sysFutex);
    asm.syscall();
  },
  wake(asm) {
    asm.movImm(rsi, futexWakeBitset);
    asm.movImm(rax, sysFutex);
    asm.syscall();
  },
  write(asm) {
    asm.movImm(rax, sysWrite);
    asm.syscall();
  },
};

/** Anywhere: by the mutex and the condition in the control block. Whoever changes a word that others sleep at does so before `wake`. */
export function posixWaiting(symbol: (name: string) => Address): Waiting {
  const call = (asm: X64, name: string) => {
    asm.movImm(rax, symbol(name));
    asm.call(rax);
  };
  /** rdi = the control block's `offset`, from the word's address on the stack. */
  const address = (asm: X64, offset: number) => {
    asm.mov(rdi, mem(rsp, 8));
    asm.aluImm("and", rdi, -control.alignment);
    asm.aluImm("add", rdi, offset);
  };
  return {
    sleep(asm) {
      const skip = new Label();
      asm.push(rdi);
      asm.push(rdx);
      address(asm, control.mutex);
      call(asm, "pthread_mutex_lock");
      asm.mov(rdi, mem(rsp, 8));
      asm.mov32(rdx, mem(rsp));
      asm.alu32("cmp", rdx, mem(rdi));
      asm.jcc("ne", skip);
      address(asm, control.mutex);
      asm.mov(rsi, rdi);
      address(asm, control.condition);
      call(asm, "pthread_cond_wait");
      asm.bind(skip);
      address(asm, control.mutex);
      call(asm, "pthread_mutex_unlock");
      asm.aluImm("add", rsp, 16);
      asm.movImm(rax, 1);
    },
    wake(asm) {
      asm.push(rdi);
      asm.push(rdi);
      for (const [name, offset] of [
        ["pthread_mutex_lock", control.mutex],
        ["pthread_cond_broadcast", control.condition],
        ["pthread_mutex_unlock", control.mutex],
      ] as const) {
        address(asm, offset);
        call(asm, name);
      }
      asm.aluImm("add", rsp, 16);
      asm.movImm(rax, 0);
    },
    write: (asm) => call(asm, "write"),
  };
}

/** tsc -> rax; changes rdx. */
function readTicks(asm: X64): void {
  asm.rdtsc();
  asm.shift("shl", rdx, 32);
  asm.alu("or", rax, rdx);
}

export function emitDriver({ sleep, wake, write }: Waiting): DriverCode {
  const asm = new X64();
  const next = new Label();
  const take = new Label();
  const wait = new Label();
  const changed = new Label();
  const look = new Label();
  const exit = new Label();
  const entry = () => {
    asm.align(16);
    return asm.length;
  };

  const prologue = () => {
    for (const register of saved) asm.push(register);
    asm.aluImm("sub", rsp, frame.bytes);
    asm.stmxcsr(mem(rsp, frame.callerMxcsr));
    asm.movImm(rax, defaultMxcsr);
    asm.mov32(mem(rsp, frame.mxcsr), rax);
    asm.ldmxcsr(mem(rsp, frame.mxcsr));
    asm.movMemImm(mem(rsp, frame.done), 0);
  };
  /** Calls the kernel of the step at r10 for task rsi; r9 = job. */
  const callKernel = () => {
    asm.mov(rdx, mem(rbp, thread.scratch));
    asm.aluImm("add", r9, job.error);
    asm.mov(mem(rdx, errorSlot), r9);
    asm.mov(rdi, mem(r10, step.args));
    asm.call(mem(r10, step.kernel));
  };
  /** Stores a time stamp for the step in the frame if the job wants it; r8 = control. Changes rax, rcx, rdx, r9, r10. */
  const stamp = (offset: 0 | 8) => {
    const skip = new Label();
    asm.mov(r9, mem(r8, control.job));
    asm.mov(r10, mem(r9, job.profile));
    asm.test(r10, r10);
    asm.jcc("e", skip);
    asm.mov(rcx, mem(rsp, frame.step));
    asm.alu("sub", rcx, mem(r9, job.first));
    asm.shift("shr", rcx, 1); // 16 bytes of stamps for 32 of a step
    readTicks(asm);
    asm.mov(mem(r10, offset, rcx), rax);
    asm.bind(skip);
  };
  /** Makes the ticket's next generation: r11-free; low half = `kind` plus `count`. r8 = control. Changes rdx and `temp`. */
  const publish = (kind: number, count: Gp | undefined, temp: Gp) => {
    asm.mov32(rdx, mem(r8, control.generation));
    asm.aluImm("add", rdx, 1);
    asm.shift("shl", rdx, 32);
    asm.movImm(temp, kind);
    asm.alu("or", rdx, temp);
    if (count !== undefined) asm.alu("add", rdx, count);
    asm.xchg(mem(r8, control.ticket), rdx);
  };

  // ---------------------------------------------------------------------------------------------- thread 0 of a run
  const run = entry();
  prologue();
  asm.mov(rbp, mem(rdi, job.caller));
  asm.mov(r8, mem(rbp, thread.control));
  asm.mov(mem(r8, control.job), rdi);
  asm.v("vxorps", 32, 0, 0, 0);
  asm.store("vmovups", 32, mem(rdi, job.error), 0);
  asm.store("vmovups", 32, mem(rdi, job.error + 32), 0);
  asm.mov(rax, mem(rdi, job.first));
  asm.aluImm("sub", rax, step.bytes);
  asm.mov(mem(rsp, frame.step), rax);

  // ---------------------------------------------------------------------------------------------- on to the next step
  // Only one thread is here at a time: the one that finished the last task of the step in its frame.
  const finish = new Label();
  const share = new Label();
  asm.bind(next);
  asm.mov(r8, mem(rbp, thread.control));
  asm.mov(r9, mem(r8, control.job));
  asm.mov(rax, mem(rsp, frame.step));
  asm.aluImm("add", rax, step.bytes);
  asm.movImm(rcx, outcome.failed);
  asm.aluImm("cmp", mem(r9, job.error), 0);
  asm.jcc("ne", finish);
  asm.movImm(rcx, outcome.done);
  asm.alu("cmp", rax, mem(r9, job.end));
  asm.jcc("e", finish);
  asm.movImm(rcx, outcome.stopped);
  asm.aluImm32("cmp", mem(r9, job.stop), 0);
  asm.jcc("ne", finish);
  asm.mov(mem(rsp, frame.step), rax);
  stamp(0);
  asm.mov(r10, mem(rsp, frame.step));
  asm.mov32(rcx, mem(r10, step.tasks));
  asm.alu32("cmp", rcx, mem(r9, job.inlineTasks));
  asm.jcc("a", share);

  // One task, or a job that is not worth waking anybody.
  asm.movMemImm(mem(rsp, frame.task), 0);
  const serial = asm.here();
  const serialDone = new Label();
  asm.mov(r10, mem(rsp, frame.step));
  asm.mov(rsi, mem(rsp, frame.task));
  asm.mov32(rcx, mem(r10, step.tasks));
  asm.alu("cmp", rsi, rcx);
  asm.jcc("ae", serialDone);
  asm.aluImm("add", mem(rsp, frame.task), 1);
  asm.mov(r8, mem(rbp, thread.control));
  asm.mov(r9, mem(r8, control.job));
  callKernel();
  asm.jmp(serial);
  asm.bind(serialDone);
  asm.mov(r8, mem(rbp, thread.control));
  stamp(8);
  asm.jmp(next);

  // Several tasks, rcx of them.
  asm.bind(share);
  asm.mov(mem(r8, control.step), r10);
  asm.mov(mem(r8, control.pending), rcx);
  publish(ticket.open, rcx, rax);
  // Wake as many as there is work for, but no more than there are processors.
  asm.mov32(rax, mem(r8, control.sleepers));
  asm.test32(rax, rax);
  asm.jcc("e", take);
  asm.alu32("add", rax, mem(r8, control.cores));
  asm.alu32("sub", rax, mem(r8, control.threads));
  asm.jcc("le", take);
  asm.lea(rdx, mem(rcx, -1));
  asm.alu("cmp", rdx, rax);
  asm.cmov("a", rdx, rax);
  asm.movImm(r9, wakeSet.all);
  asm.lea(rdi, mem(r8, control.generation));
  wake(asm);
  asm.neg(rax);
  asm.mov(r8, mem(rbp, thread.control));
  asm.lockAlu32("add", mem(r8, control.sleepers), rax);

  // ---------------------------------------------------------------------------------------------- tasks
  asm.bind(take);
  const none = new Label();
  asm.mov(r8, mem(rbp, thread.control));
  asm.movImm(rax, -1);
  asm.lockXadd(mem(r8, control.ticket), rax);
  asm.movImm(rdx, ticket.open);
  asm.mov32(rcx, rax);
  asm.alu32("sub", rcx, rdx);
  asm.jcc("be", none);
  // A task that was taken and is not finished keeps step and job where they are.
  asm.mov(r10, mem(r8, control.step));
  asm.mov(r9, mem(r8, control.job));
  asm.mov32(rsi, mem(r10, step.tasks));
  asm.alu32("sub", rsi, rcx);
  asm.aluImm("add", mem(rsp, frame.done), 1);
  callKernel();
  asm.jmp(take);

  asm.bind(none);
  asm.mov(rdx, rax);
  asm.shift("shr", rdx, 32);
  asm.mov32(mem(rsp, frame.seen), rdx);
  asm.mov(rcx, mem(rsp, frame.done));
  asm.test(rcx, rcx);
  asm.jcc("e", changed); // rax = ticket, edx = its generation: the run may have ended meanwhile
  asm.vzeroupper();
  asm.movMemImm(mem(rsp, frame.done), 0);
  asm.mov(rax, rcx);
  asm.neg(rax);
  asm.lockXadd(mem(r8, control.pending), rax);
  asm.alu("cmp", rax, rcx);
  asm.jcc("ne", wait);
  asm.mov(r10, mem(r8, control.step));
  asm.mov(mem(rsp, frame.step), r10);
  stamp(8);
  asm.jmp(next);

  // ---------------------------------------------------------------------------------------------- waiting
  asm.bind(wait);
  readTicks(asm);
  asm.mov(r10, rax);
  asm.alu("add", r10, mem(r8, control.spin));
  const spin = asm.here();
  asm.pause();
  asm.mov(rax, mem(r8, control.ticket));
  asm.mov(rdx, rax);
  asm.shift("shr", rdx, 32);
  asm.alu32("cmp", rdx, mem(rsp, frame.seen));
  asm.jcc("ne", changed);
  readTicks(asm);
  asm.alu("cmp", rax, r10);
  asm.jcc("b", spin);

  // Sleepers are counted before they look at the generation (the kernel compares), wakers publish before they look at the count.
  const caller = () => asm.aluImm32("cmp", mem(rbp, thread.wakeSet), wakeSet.caller);
  const isWorker = new Label();
  caller();
  asm.jcc("ne", isWorker);
  asm.movImm(rax, 1);
  asm.xchg32(mem(r8, control.callerAsleep), rax);
  asm.bind(isWorker);
  asm.lockAluImm32("add", mem(r8, control.sleepers), 1);
  asm.lea(rdi, mem(r8, control.generation));
  asm.mov32(rdx, mem(rsp, frame.seen));
  asm.mov32(r9, mem(rbp, thread.wakeSet));
  sleep(asm);
  asm.mov(r8, mem(rbp, thread.control));
  const woken = new Label();
  asm.test(rax, rax);
  asm.jcc("e", woken); // whoever woke this thread has counted it out
  asm.lockAluImm32("sub", mem(r8, control.sleepers), 1);
  asm.bind(woken);
  const isWorkerToo = new Label();
  caller();
  asm.jcc("ne", isWorkerToo);
  asm.movImm(rax, 0);
  asm.mov32(mem(r8, control.callerAsleep), rax);
  asm.bind(isWorkerToo);

  asm.bind(look);
  asm.mov(rax, mem(r8, control.ticket));
  asm.mov(rdx, rax);
  asm.shift("shr", rdx, 32);
  asm.alu32("cmp", rdx, mem(rsp, frame.seen));
  asm.jcc("e", wait);
  asm.bind(changed); // rax = ticket, edx = its generation
  asm.alu32("cmp", rax, mem(rbp, thread.exitBelow));
  asm.jcc("b", exit);
  asm.movImm(rcx, ticket.open);
  asm.alu32("cmp", rax, rcx);
  asm.jcc("a", take);
  asm.mov32(mem(rsp, frame.seen), rdx);
  asm.jmp(wait);

  // ---------------------------------------------------------------------------------------------- the end of a run
  asm.bind(finish); // ecx = outcome, rax = behind the last step that ran
  asm.mov32(mem(r9, job.outcome), rcx);
  asm.mov(mem(r9, job.reached), rax);
  asm.mov32(rax, mem(r8, control.generation));
  asm.mov32(mem(rsp, frame.seen), rax);
  publish(ticket.idle, undefined, rax); // from here on the job may be gone
  asm.aluImm32("cmp", mem(r8, control.callerAsleep), 0);
  asm.jcc("e", look);
  asm.movImm(rdx, 1);
  asm.movImm(r9, wakeSet.caller);
  asm.lea(rdi, mem(r8, control.generation));
  wake(asm);
  asm.neg(rax);
  asm.mov(r8, mem(rbp, thread.control));
  asm.lockAlu32("add", mem(r8, control.sleepers), rax);
  asm.jmp(look);

  asm.bind(exit);
  asm.vzeroupper();
  asm.ldmxcsr(mem(rsp, frame.callerMxcsr));
  asm.aluImm("add", rsp, frame.bytes);
  for (const register of saved.toReversed()) asm.pop(register);
  asm.movImm(rax, 0);
  asm.ret();

  // ---------------------------------------------------------------------------------------------- other threads' starts
  const worker = entry();
  prologue();
  asm.mov(rbp, rdi);
  asm.mov(r8, mem(rbp, thread.control));
  asm.mov(rax, mem(r8, control.ticket));
  asm.mov(rdx, rax);
  asm.shift("shr", rdx, 32);
  asm.jmp(changed);

  const conductor = entry();
  asm.push(rbx);
  asm.push(rbp);
  asm.aluImm("sub", rsp, 8);
  asm.mov(rbx, rdi);
  asm.alu32("xor", rbp, rbp);
  const listen = asm.here();
  const called = new Label();
  readTicks(asm);
  asm.mov(r10, rax);
  asm.alu("add", r10, mem(rbx, control.spin));
  const listening = asm.here();
  asm.pause();
  asm.alu32("cmp", rbp, mem(rbx, control.conductorWord));
  asm.jcc("ne", called);
  readTicks(asm);
  asm.alu("cmp", rax, r10);
  asm.jcc("b", listening);
  asm.movImm(rax, 1);
  asm.xchg32(mem(rbx, control.conductorAsleep), rax);
  asm.lea(rdi, mem(rbx, control.conductorWord));
  asm.mov32(rdx, rbp);
  asm.movImm(r9, wakeSet.all);
  sleep(asm);
  asm.movImm(rax, 0);
  asm.mov32(mem(rbx, control.conductorAsleep), rax);
  asm.alu32("cmp", rbp, mem(rbx, control.conductorWord));
  asm.jcc("e", listen);
  asm.bind(called);
  const end = new Label();
  asm.mov32(rbp, mem(rbx, control.conductorWord));
  asm.mov(rdi, mem(rbx, control.conductorJob));
  asm.test(rdi, rdi);
  asm.jcc("e", end);
  const runLabel = new Label();
  runLabel.at = run;
  asm.call(runLabel);
  asm.mov32(rdi, mem(rbx, control.conductorFd));
  asm.mov(rsi, rbx); // any byte will do
  asm.movImm(rdx, 1);
  write(asm);
  asm.jmp(listen);
  asm.bind(end);
  asm.aluImm("add", rsp, 8);
  asm.pop(rbp);
  asm.pop(rbx);
  asm.movImm(rax, 0);
  asm.ret();

  // ---------------------------------------------------------------------------------------------- calls from JavaScript
  /** rdi = control, rsi = job or 0. */
  const tellConductor = () => {
    const awake = new Label();
    asm.mov(mem(rdi, control.conductorJob), rsi);
    asm.aluImm("sub", rsp, 8);
    asm.lockAluImm32("add", mem(rdi, control.conductorWord), 1);
    asm.aluImm32("cmp", mem(rdi, control.conductorAsleep), 0);
    asm.jcc("e", awake);
    asm.aluImm("add", rdi, control.conductorWord);
    asm.movImm(rdx, 1);
    asm.movImm(r9, wakeSet.all);
    wake(asm);
    asm.bind(awake);
    asm.aluImm("add", rsp, 8);
    asm.ret();
  };
  const start = entry();
  asm.mov(rsi, rdi);
  asm.mov(rdi, mem(rsi, job.caller));
  asm.mov(rdi, mem(rdi, thread.control));
  tellConductor();

  const stopConductor = entry();
  asm.movImm(rsi, 0);
  tellConductor();

  const shutdown = entry();
  asm.aluImm("sub", rsp, 8);
  asm.mov(r8, rdi);
  publish(ticket.shutdown, undefined, rax);
  asm.lea(rdi, mem(r8, control.generation));
  asm.movImm(rdx, 0x7fffffff);
  asm.movImm(r9, wakeSet.all);
  wake(asm);
  asm.aluImm("add", rsp, 8);
  asm.ret();

  const ticks = entry();
  readTicks(asm);
  asm.mov(mem(rdi), rax);
  asm.ret();

  return { code: asm.finish(), run, worker, conductor, start, shutdown, stopConductor, ticks };
}
