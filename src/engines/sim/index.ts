// The simulator, plain mode: one reference kernel per instruction, fp16 rounded at every operator boundary, sums accumulated in float64.
// Nobody optimises it; it is what the other engines are compared with.

import { dtypeBytes, newValues, type ValueArray } from "../../core/dtype.ts";
import { AbortedError, AnekitError, DisposedError, EngineError, formatAval, invariant } from "../../core/errors.ts";
import { packFloat16, roundFloat16InPlace, unpackFloat16 } from "../../core/float16.ts";
import { type Aval, sizeOf } from "../../core/shape.ts";
import { instructionOperands, type Program } from "../../ir/program.ts";
import type { KernelArray } from "../../ops/define.ts";
import type { Binding, Buffer, Engine, Executable } from "../engine.ts";

/** Bytes above which a program is refused instead of exhausting memory. */
const memoryLimit = 4 * 2 ** 30;

/** What a program takes: an array for every value, its ports in storage format, and the largest kernel's index tables (three operands, 4 bytes an index). */
function bytesNeeded({ values, inputs, outputs, instructions }: Program): number {
  const elements = (value: number) => sizeOf(values[value]!.shape);
  const arrays = values.reduce((sum, _, value) => sum + 4 * elements(value), 0);
  const ports = [...inputs, ...outputs].reduce(
    (sum, { value }) => sum + dtypeBytes[values[value]!.dtype] * elements(value),
    0,
  );
  const widest = instructions.reduce((most, { results }) => Math.max(most, ...results.map(elements)), 0);
  return arrays + ports + 12 * widest;
}

/** How long an asynchronous run computes before it lets the event loop turn. */
const sliceMs = 20;

class SimBuffer implements Buffer {
  readonly dtype;
  readonly shape;
  readonly bytes: Uint8Array<ArrayBuffer>;

  constructor({ dtype, shape }: Aval) {
    this.dtype = dtype;
    this.shape = shape;
    this.bytes = new Uint8Array(sizeOf(shape) * dtypeBytes[dtype]);
  }

  [Symbol.dispose](): void {} // garbage collected; views stay valid
}

/** Values of a port's storage. */
function load({ dtype, bytes }: Buffer, values: ValueArray): void {
  if (dtype === "fp16") unpackFloat16(new Uint16Array(bytes.buffer), values as Float32Array);
  else if (dtype === "bool") values.set(bytes);
  else if (dtype === "fp32") values.set(new Float32Array(bytes.buffer));
  else values.set(new Int32Array(bytes.buffer));
}

function store(values: ValueArray, { dtype, bytes }: Buffer): void {
  if (dtype === "fp16") packFloat16(values as Float32Array, new Uint16Array(bytes.buffer));
  else if (dtype === "bool") bytes.set(values);
  else if (dtype === "fp32") new Float32Array(bytes.buffer).set(values);
  else new Int32Array(bytes.buffer).set(values);
}

type Step = () => void;

class SimExecutable implements Executable {
  readonly program: Program;
  #arrays: KernelArray[] | undefined;
  #steps: readonly Step[];

  constructor(program: Program) {
    this.program = program;
    const bytes = bytesNeeded(program);
    if (bytes > memoryLimit) {
      const facts = { limit: memoryLimit, remedy: "use smaller shapes or another engine" };
      throw new EngineError(
        "sim",
        `the program needs ${(bytes / 2 ** 30).toFixed(1)} GiB, the limit is ${memoryLimit / 2 ** 30}`,
        facts,
      );
    }
    const arrays = program.values.map(
      ({ dtype, shape }): KernelArray => ({ dtype, shape, data: newValues(dtype, sizeOf(shape)) }),
    );
    for (const { value, data } of program.constants) {
      const array = arrays[value]!;
      array.data.set(data);
      if (array.dtype === "fp16") roundFloat16InPlace(array.data as Float32Array);
    }
    this.#arrays = arrays;
    this.#steps = program.instructions.map((instruction): Step => {
      const { op, attrs, results } = instruction;
      const operands = instructionOperands(instruction, (value) => arrays[value]!);
      const outs = results.map((value) => arrays[value]!) as [KernelArray, ...KernelArray[]];
      return () => {
        op.kernel(operands, attrs, outs);
        for (const out of outs) if (out.dtype === "fp16") roundFloat16InPlace(out.data as Float32Array);
      };
    });
  }

  bind(buffers: ReadonlyMap<string, Buffer>): Binding {
    const { program } = this;
    const ports = (list: Program["inputs"]) =>
      list.map(({ name, value }) => {
        const buffer = buffers.get(name);
        invariant(buffer !== undefined, () => `no buffer for port ${name}`);
        const { dtype, shape } = program.values[value]!;
        const matches = buffer.dtype === dtype && buffer.bytes.length === sizeOf(shape) * dtypeBytes[dtype];
        invariant(matches, () => `port ${name} is ${formatAval({ dtype, shape })}, its buffer ${formatAval(buffer)}`);
        return { value, buffer };
      });
    const inputs = ports(program.inputs);
    const outputs = ports(program.outputs);
    const arrays = () => {
      if (this.#arrays === undefined) throw new DisposedError("the program");
      return this.#arrays;
    };
    // State is replaced only after the last step: a run that fails or is aborted leaves every buffer as it was.
    const begin = () => {
      for (const { value, buffer } of inputs) load(buffer, arrays()[value]!.data);
    };
    const end = () => {
      for (const { value, buffer } of outputs) store(arrays()[value]!.data, buffer);
    };
    const step = (at: number) => {
      try {
        this.#steps[at]!();
      } catch (error) {
        if (error instanceof AnekitError) throw error;
        throw new EngineError("sim", `instruction ${at} (${program.instructions[at]!.op.name}) failed`, {
          cause: error,
        });
      }
    };
    return {
      runSync: () => {
        begin();
        for (let at = 0; at < this.#steps.length; at++) step(at);
        end();
      },
      run: async (signal) => {
        begin();
        let turned = performance.now();
        for (let at = 0; at < this.#steps.length; at++) {
          step(at);
          if (performance.now() - turned < sliceMs) continue;
          await new Promise((resolve) => setTimeout(resolve, 0));
          if (signal?.aborted) throw new AbortedError("run", signal);
          turned = performance.now();
        }
        arrays(); // disposed while another task ran
        end();
      },
    };
  }

  [Symbol.dispose](): void {
    this.#arrays = undefined;
    this.#steps = [];
  }
}

/** The simulator as an engine. */
export function createSim(reason: string): Engine {
  return {
    name: "sim",
    reason,
    allocate: (aval) => new SimBuffer(aval),
    load: async (program) => new SimExecutable(program),
    [Symbol.dispose]() {},
  };
}
