// Memory, threads, executable code and the calling convention of the machine: what engines with native code share.

export { type Accelerate, findAccelerate, type NoAccelerate } from "./accelerate.ts";
export { availableCores } from "./cores.ts";
export type { Address, CType, Library } from "./libc.ts";
export { type AllocateOptions, type NativeCode, type NativeMemory, reclaimViews, releaseViewed } from "./memory.ts";
export type { Processor } from "./processor.ts";
export { type CapturePlace, newRedirection } from "./stderr.ts";
export { type NativeThread, openSystem, type Pipe, type System, type ThreadOptions } from "./system.ts";
