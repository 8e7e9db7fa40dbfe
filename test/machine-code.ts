// Functions `void f(void*)` of a few instructions for the tests of src/engines/os, by architecture.

const codes: Readonly<Record<string, { readonly increment: readonly number[]; readonly load: readonly number[] }>> = {
  x64: {
    increment: [0x48, 0xff, 0x07, 0xc3], // inc qword ptr [rdi]; ret
    load: [0x8a, 0x07, 0xc3], // mov al, [rdi]; ret
  },
  arm64: {
    // ldr x1, [x0]; add x1, x1, #1; str x1, [x0]; ret
    increment: [0x01, 0x00, 0x40, 0xf9, 0x21, 0x04, 0x00, 0x91, 0x01, 0x00, 0x00, 0xf9, 0xc0, 0x03, 0x5f, 0xd6],
    load: [0x01, 0x00, 0x40, 0x39, 0xc0, 0x03, 0x5f, 0xd6], // ldrb w1, [x0]; ret
  },
};

/** Adds 1 to the word of 64 bits at the argument; reads the byte there. */
export const { increment, load } = codes[process.arch] ?? { increment: [], load: [] };
/** Why there are none; undefined where there are. */
export const noCode = Object.hasOwn(codes, process.arch) ? undefined : `no code for ${process.arch}`;
