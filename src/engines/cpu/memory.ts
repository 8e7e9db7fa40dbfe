// The memory of a plan: which storages it has, where every array is in them, which arrays take over the memory of others.

import { type DType, dtypeBytes, newValues } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { GraphArray, isOfParts } from "./graph.ts";
import type { Layout } from "./layout.ts";
import type { Readers } from "./readers.ts";

/** A piece of memory that a plan needs. */
export interface Storage {
  readonly kind: "arena" | "port" | "constant";
  readonly bytes: number;
  /** Name of a port. */
  readonly port?: string;
  /** Array of a constant. */
  readonly array?: GraphArray;
  /** True once a step uses it. */
  touched: boolean;
  /** First and last batch that uses it. */
  first: number;
  last: number;
  /** True for a constant that only packing reads. */
  isSource?: boolean;
  /** Offset in the arena, or in the memory of constants or of sources. */
  offset: number;
  /** True where no two steps write the same element: they need not wait for one another. */
  readonly ofParts: boolean;
  /** The storage that this one shares memory with. */
  shares?: Storage;
}

/** An address: a storage and bytes from its start. */
export interface Place {
  readonly storage: Storage;
  readonly offset: number;
}

/** The storage whose memory this one takes. */
export function ownerOf(storage: Storage): Storage {
  let owner = storage;
  while (owner.shares !== undefined) owner = owner.shares;
  return owner;
}

/** Checks that a walk over memory stays inside its storage: generated code does not look. */
export function requireInside(
  { storage, offset }: Place,
  dtype: DType,
  dims: readonly number[],
  strides: readonly number[],
): void {
  const [first, last] = dims.reduce(
    ([low, high], extent, axis) => {
      const reach = (extent - 1) * strides[axis]!;
      return [Math.min(low, low + reach), Math.max(high, high + reach)] as const;
    },
    [0, 0] as readonly [number, number],
  );
  const bytes = dtypeBytes[dtype];
  invariant(
    offset + first * bytes >= 0 && offset + (last + 1) * bytes <= storage.bytes,
    () => `code would touch bytes ${offset + first * bytes} to ${offset + (last + 1) * bytes} of ${storage.bytes}`,
  );
}

export class Memory {
  readonly #layout: Layout;
  readonly #readers: Readers;
  readonly #ports: ReadonlyMap<GraphArray, string>;
  readonly #inPlace: ReadonlyMap<string, string | null>;
  readonly #byHost = new Map<GraphArray, Storage>();
  readonly #numbers = new Map<string, GraphArray>();
  readonly #storages: Storage[] = [];

  /**
   * @param ports of the outputs that are stored where they belong
   * @param inPlace outputs' ports that replace state, with the input's port of the same memory
   */
  constructor(
    layout: Layout,
    readers: Readers,
    ports: ReadonlyMap<GraphArray, string>,
    inPlace: ReadonlyMap<string, string | null>,
  ) {
    this.#layout = layout;
    this.#readers = readers;
    this.#ports = ports;
    this.#inPlace = inPlace;
  }

  get storages(): readonly Storage[] {
    return this.#storages;
  }

  /** Memory that no array of the graph has: temporaries, packed copies, a port that is stored at the end. */
  allocate(kind: Storage["kind"], bytes: number, port?: string): Place {
    return { storage: this.#newStorage(kind, bytes, port === undefined ? {} : { port }), offset: 0 };
  }

  /** Address of the element at `offset` of a root. */
  place(root: GraphArray, offset = 0): Place {
    const { host, offset: start } = this.#layout.place(root);
    let storage = this.#byHost.get(host);
    if (storage === undefined) this.#byHost.set(host, (storage = this.#storageOf(host)));
    return { storage, offset: (start + offset) * dtypeBytes[root.dtype] };
  }

  /** Address of a number that never changes. */
  number(dtype: DType, value: number): Place {
    const key = `${dtype} ${Object.is(value, -0) ? "-0" : value}`;
    let array = this.#numbers.get(key);
    if (array === undefined) {
      const data = newValues(dtype, 1);
      data[0] = value;
      this.#numbers.set(key, (array = new GraphArray(-1, dtype, [1], { kind: "constant", data })));
    }
    return this.place(array);
  }

  #storageOf(host: GraphArray): Storage {
    const { source } = host;
    const bytes = host.size * dtypeBytes[host.dtype];
    const port = source.kind === "input" ? source.port : this.#ports.get(host);
    if (port !== undefined) return this.#newStorage("port", bytes, { port });
    if (source.kind === "constant") return this.#newStorage("constant", bytes, { array: host });
    return this.#newStorage("arena", bytes, { ofParts: isOfParts(host) });
  }

  #newStorage(
    kind: Storage["kind"],
    bytes: number,
    of: Pick<Storage, "port" | "array"> & { readonly ofParts?: boolean },
  ): Storage {
    const storage: Storage = {
      kind,
      bytes,
      ofParts: false,
      ...of,
      touched: false,
      first: Number.POSITIVE_INFINITY,
      last: -1,
      offset: 0,
    };
    this.#storages.push(storage);
    return storage;
  }

  /** Equal for places in the same memory. */
  identity({ storage }: Place): Storage | string {
    if (storage.kind !== "port") return ownerOf(storage);
    return this.#inPlace.get(storage.port!) ?? storage.port!;
  }

  /** True for an output that replaces an input at one of the places. */
  replaces({ storage }: Place, places: readonly Place[]): boolean {
    const input = storage.kind === "port" ? this.#inPlace.get(storage.port!) : undefined;
    return places.some(({ storage: { kind, port } }) => kind === "port" && port === input);
  }

  /** True where other arrays are stored inside the root's memory, or it inside another's. */
  isShared(root: GraphArray): boolean {
    return root.source.kind === "assemble" || this.#layout.isHosted(root);
  }

  /**
   * Lets a storage that no step has used take the memory of another, which holds `root`, where nobody but the arrays `by` still reads that. True if
   * it does.
   */
  takeOver(to: Storage, from: Storage, root: GraphArray, by: readonly GraphArray[]): boolean {
    const free =
      to.kind === "arena" &&
      to.shares === undefined &&
      !to.touched &&
      from.kind === "arena" &&
      ownerOf(from) !== to &&
      from.bytes === to.bytes &&
      this.#readers.onlyBy(root, by) &&
      !this.isShared(root);
    if (free) to.shares = from;
    return free;
  }
}
